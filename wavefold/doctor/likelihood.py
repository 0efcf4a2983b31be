"""The model on a text: does it predict, do other rope bases fit its weights better, does it do better without a part?

A trained model's own values are near the best ones. Another value that predicts the text clearly better says that the
file's is wrong. A value with little effect on the text, as the indexer's top-k, is not seen so.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavefold import ops
from wavefold.config import ModelConfig
from wavefold.doctor.finding import Finding, failed, passed, skipped
from wavefold.doctor.patient import Patient
from wavefold.experts import ExpertWeights
from wavefold.model import Transformer
from wavefold.model.block import Block
from wavefold.model.parameters import Linear
from wavefold.quant import Weight

SEQUENCES, TOKENS, TOKENS_OF_LARGE = 2, 448, 24
BEYOND_CHANCE = 1.5
"""Nats a token above those of a guess among all tokens: a model that is so sure and so wrong reads other tokens."""
GAIN, SURE = 0.02, 5.0
"""What another value must gain: nats a token, and standard errors."""
MOST_PARTS_BYTES = 1 << 30
FAMILY = {"rope_theta": (10000.0, 1e6), "compress_rope_theta": (160000.0, 10000.0)}


def likelihood(patient: Patient) -> Iterator[Finding]:
    model, texts = patient.model, patient.text_tokens(SEQUENCES, TOKENS)
    assert model is not None
    if texts is None:
        yield skipped("text", "there is no tokenizer for this vocabulary: nothing says what the model has learned")
        return
    nats, chance = measure(patient), math.log(model.config.vocab_size)
    assert nats is not None
    if not math.isfinite(nats):
        yield from _no_number(patient, texts)
        return
    if not nats <= chance + BEYOND_CHANCE and _has_learned(model):
        yield failed("text", f"{nats:.2f} nats a token of Python code, a guess has {chance:.2f}, though the head is "
                     "that of a trained model", "the tokenizer, the embedding or a whole layer is another model's: "
                     "--against MODEL says which")  # fmt: skip
        return
    yield passed("text", f"{nats:.2f} nats a token of Python code; a guess has {chance:.2f}")


def measure(patient: Patient) -> float | None:
    """Returns the nats a token of the text, measured once; None without a model or a tokenizer."""
    if patient.nats is None and patient.model is not None:
        texts = patient.text_tokens(SEQUENCES, TOKENS)
        patient.nats = None if texts is None else float(losses(patient.model, texts).mean())
    return patient.nats


def _no_number(patient: Patient, texts: list[Tensor]) -> Iterator[Finding]:
    """A text whose likelihood is no number: by plain torch, too, which says that the file and not a kernel makes it."""
    model = patient.model
    assert model is not None
    runtime = model.runtime
    try:
        model.runtime = (runtime or ops.current()).but(backend="reference")
        few = [text[:TOKENS_OF_LARGE] for text in texts[:1]] if patient.is_large else texts
        by_torch = float(losses(model, few).mean())
    finally:
        model.runtime = runtime
    if math.isfinite(by_torch):
        yield failed("text", "its likelihood is no number by the kernels, and one by plain torch",
                     "a fault of this processor, its memory or these kernels: see the checks below")  # fmt: skip
        return
    patient.garbled = "likelihood"
    yield failed("text", "its likelihood is no number, by plain torch too: NaN or huge values come up in the layers",
                 "the file's values are wrong where no sampled row shows it: download or convert the file "
                 "again")  # fmt: skip


@torch.no_grad()
def losses(model: Transformer, texts: list[Tensor]) -> Tensor:
    """Returns the nats of each token after the first of each sequence."""
    pool = model.new_pool(sum(len(text) for text in texts) + 256 * len(texts))
    sequences = [pool.open() for _ in texts]
    hidden = model.extend(torch.cat(texts), sequences, [len(text) for text in texts])
    parts, first = [], 0
    for text in texts:
        logits = model.logits(hidden[first : first + len(text) - 1])
        parts.append(F.cross_entropy(logits, text[1:], reduction="none"))
        first += len(text)
    return torch.cat(parts)


def _has_learned(model: Transformer) -> bool:
    """True if the head's largest singular value stands clearly above that of a matrix of random numbers."""
    head: Linear = model.head
    rows = head.stored.rows(torch.arange(min(1024, head.out_features))).decode(torch.float32)
    edge = rows.square().mean().sqrt() * (math.sqrt(len(rows)) + math.sqrt(rows.shape[1]))
    return bool(torch.linalg.matrix_norm(rows, 2) > 2 * edge)


def rope(patient: Patient) -> Iterator[Finding]:
    """Other rope bases: those of the family, and a sixteenth and sixteen times the file's."""
    model, texts = patient.model, patient.text_tokens(SEQUENCES, TOKENS)
    assert model is not None
    if texts is None or not patient.is_trained:
        yield skipped("rope", "the model does not predict the text: no other value can be told to be better")
        return
    if patient.is_sick:
        yield skipped("rope", "with wrong tensors another value may be better by chance", "see the failures above")
        return
    base = losses(model, texts)
    tried, better = 0, False
    compresses = any(spec.compressed for spec in model.config.main_layers)
    for key, family in FAMILY.items():
        value: float = getattr(model.config, key)
        if key == "compress_rope_theta" and not compresses:
            continue
        gains = {}
        for other in sorted({*family, value / 16, value * 16} - {value}):
            if patient.time_left < 0:
                break
            tried += 1
            gain, errors = compared(base, losses(with_config(model, **{key: other}), texts))
            if gain > GAIN and errors > SURE:
                gains[gain] = other
        if gains:
            better = True
            yield failed(key, f"{key} = {value:g}; with {gains[max(gains)]:g} the text costs {max(gains):.3f} nats a "
                         "token less", f"take {key} from the official config.json")  # fmt: skip
    if tried and not better:
        yield passed("rope", f"none of {tried} other rope bases predicts the text better")


def compared(base: Tensor, other: Tensor) -> tuple[float, float]:
    """Returns what `other` gains, in nats a token, and that over its standard error."""
    gain = base - other
    return float(gain.mean()), float(gain.mean() / (gain.std() / math.sqrt(len(gain)) + 1e-12))


def with_config(model: Transformer, **changes: Any) -> Transformer:
    """Returns a model of the same tensors under a changed configuration."""
    config: ModelConfig = model.config.replace(**changes)
    other = Transformer(config, model.arithmetic)
    modules = dict(model.named_modules())
    for name, module in other.named_modules():
        for parameter in list(module._parameters):
            module.register_parameter(parameter, modules[name]._parameters[parameter])
        if hasattr(module, "packed"):
            module.packed = modules[name].packed
    other.experts, other.runtime = model.experts, model.runtime
    return other


def parts(patient: Patient) -> Iterator[Finding]:
    """Each layer's attention, shared expert and routed experts at half of their output."""
    model, texts = patient.model, patient.text_tokens(SEQUENCES, TOKENS)
    assert model is not None
    is_here = model.experts.store.stored(0, 0).is_here and patient.num_bytes <= MOST_PARTS_BYTES
    if texts is None or not patient.is_trained or not is_here:
        yield skipped("parts", "needs a trained model of at most 1 GiB, all in memory, that predicts the text",
                      "an expert in another's place and the like are not visible without --against MODEL")  # fmt: skip
        return
    base = losses(model, texts)
    tried, better, blocks = 0, False, list(model.layers)
    places = [
        (number, part) for part in ("attention", "routed experts", "shared expert") for number in range(len(blocks))
    ]
    for number, part in places:
        if patient.time_left < 0:
            break
        tried += 1
        block: Block = blocks[number]  # type: ignore[assignment]
        with _PARTS[part](model, block):
            gain, errors = compared(base, losses(model, texts))
        if gain <= GAIN or errors <= SURE:
            continue
        better = True
        yield failed(f"layers.{number} {part}", f"at half its output the text costs {gain:.3f} nats a token less",
                         "its scales are too large, or it is another model's: --against MODEL says which")  # fmt: skip
    if not better and tried:
        yield passed("parts", f"none of {tried} parts is better at half its output")
    if tried < len(places):
        yield skipped("parts", f"there was no time for {len(places) - tried} of {len(places)}", "give more --seconds")
    if patient.against is None:
        yield skipped("experts", "one expert in another's place, and top-k of the indexer, are not visible alone",
                      "give --against MODEL")  # fmt: skip


@contextlib.contextmanager
def _halved(linear: Linear) -> Iterator[None]:
    old = linear.weight, linear.scale, linear.packed
    linear.register_parameter("weight", nn.Parameter(_half(linear.stored).codes, requires_grad=False))
    linear.register_parameter("scale", None)
    linear.packed = None
    try:
        yield
    finally:
        linear.register_parameter("weight", old[0])
        linear.register_parameter("scale", old[1])
        linear.packed = old[2]


@contextlib.contextmanager
def _halved_experts(model: Transformer, block: Block) -> Iterator[None]:
    store, layer = model.experts.store, block.ffn.layer
    old = {expert: store.stored(layer, expert) for expert in range(store.table.num_experts)}
    try:
        for expert, weights in old.items():
            store.put(layer, expert, ExpertWeights(weights.w1, _half(weights.w2), weights.w3))
        yield
    finally:
        for expert, weights in old.items():
            store.put(layer, expert, weights)


def _half(weight: Weight) -> Weight:
    return Weight.of((weight.decode(torch.float32) / 2).bfloat16())


_PARTS: dict[str, Callable[[Transformer, Block], contextlib.AbstractContextManager[None]]] = {
    "attention": lambda model, block: _halved(block.attn.wo_b),
    "routed experts": _halved_experts,
    "shared expert": lambda model, block: _halved(block.ffn.shared_experts.w2),
}
