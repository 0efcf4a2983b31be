"""Another file of the same model: each tensor, the configuration and the vocabulary against its own.

Tensors of one type are compared byte by byte where both files are small, others by sampled rows. A tensor may differ by
what its type rounds away. One that differs by more is explained where it can be: the other's by a factor, another
expert of the layer, another layer.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.checkpoint.files import read_refs
from wavefold.checkpoint.index import TensorRef
from wavefold.config import ModelConfig, read_config
from wavefold.doctor.exact import MOST_BYTES, difference
from wavefold.doctor.finding import Finding, failed, listed, passed, skipped
from wavefold.doctor.patient import Patient
from wavefold.doctor.sampling import EXPERT, is_scale, layer_of, part_of, sample
from wavefold.doctor.vocabulary import texts_of

ALLOWED = {
    "F32": 1e-5, "F16": 1e-3, "BF16": 6e-3, "F8_E4M3": 0.06, "Q8_0": 0.02, "Q6_K": 0.04, "Q5_K": 0.08, "Q4_K": 0.15,
    "IQ4_XS": 0.15, "MXFP4": 0.25, "I8": 0.25, "U8": 0.25, "Q3_K": 0.3, "IQ3_XXS": 0.32, "Q2_K": 0.5, "IQ2_XS": 0.5,
    "IQ2_XXS": 0.55,
}  # fmt: skip
"""RMS of the difference over RMS, by type: about twice what the quantizers here lose of normal values."""
SAME = frozenset(("I8", "U8", "MXFP4"))
"""Types of the same values: moved without rounding."""
ROWS, ROWS_OF_LARGE = 16, 4
MOST_EXPERTS = 3
"""Of a layer, that are named one by one."""
EXPLAINED = 0.5
"""Of the difference, what an explanation must leave at most."""
WITHOUT_NUMBERS = frozenset((
    "max_position_embeddings", "num_nextn_predict_layers", "n_routed_experts", "attention_dropout", "initializer_range",
    "bos_token_id", "eos_token_id", "torch_dtype", "expert_dtype",
))  # fmt: skip
"""Keys of the configuration that change no logits of the same tensors and tokens: of limits, of training, of forms."""
ADVICE = "write this file again from the other one"
Refs = Mapping[str, TensorRef]


class Odd(NamedTuple):
    name: str
    error: float
    allowed: float
    cause: str


def against(patient: Patient) -> Iterator[Finding]:
    other, refs, config = patient.against, patient.refs, patient.config
    if other is None:
        yield skipped("other file", "none was given: swapped experts and tensors of like models stay unseen",
                      "give --against MODEL, the official folder that this file came from")  # fmt: skip
        return
    assert refs is not None and config is not None
    other_config, _ = read_config(other)
    others = read_refs(other).refs
    yield from _configuration(config, other_config)
    yield from _vocabulary(patient.path, other)
    if config.n_routed_experts != other_config.n_routed_experts:
        yield skipped("experts", f"{config.n_routed_experts} here, {other_config.n_routed_experts} there: experts that "
                      "were left out give the others new numbers")  # fmt: skip
        refs = {name: ref for name, ref in refs.items() if ".ffn.experts." not in name and ".ffn.gate." not in name}
    common = [name for name in refs if name in others and not is_scale(name, refs) and not is_scale(name, others)]
    lost = [name for name in others if name not in refs and not is_scale(name, others)
            and not name.startswith("mtp.") and not name.endswith("gate.bias")]  # fmt: skip
    if lost and config.n_routed_experts == other_config.n_routed_experts:
        yield failed(part_of(lost[0]), f"{len(lost)} tensors of the other file are missing: {listed(lost)}", ADVICE)
    rows = ROWS_OF_LARGE if patient.is_large else ROWS
    is_small = sum(ref.nbytes for ref in (*refs.values(), *others.values())) <= MOST_BYTES
    yield from _tensors(refs, others, common, rows, is_small)


def _tensors(refs: Refs, others: Refs, names: list[str], rows: int, whole: bool) -> Iterator[Finding]:
    """`whole`: bytes of tensors of one type are compared, too."""
    odd: dict[str, list[Odd]] = defaultdict(list)
    largest: dict[str, float] = defaultdict(float)
    num_whole = 0
    for name in names:
        found, expected = sample(refs, name, rows), sample(others, name, rows)
        if found.shape != expected.shape:
            odd[part_of(name)].append(Odd(name, float("inf"), 0.0, "another shape"))
            continue
        error, allowed = distance(found, expected), allowed_of(refs[name].dtype, others[name].dtype)
        if error > allowed:
            odd[part_of(name)].append(Odd(name, error, allowed, _cause(name, found, expected, others, rows)))
            continue
        largest[refs[name].dtype] = max(largest[refs[name].dtype], error)
        stored = [part for part in (name, f"{name.removesuffix('weight')}scale") if part in refs]
        if whole and all(part in others and refs[part][2:] == others[part][2:] for part in stored):
            num_whole += 1
            for part in stored:
                if cause := difference(refs[part], others[part]):
                    odd[part_of(name)].append(Odd(part, 0.0, 0.0, cause))
    for part, found_odd in _joined(odd).items():
        worst = max(found_odd, key=lambda one: one.error)
        causes = dict.fromkeys(one.cause for one in found_odd)
        off = f"off by up to {worst.error:.2g}, its type allows {worst.allowed:.2g}; " if worst.error else ""
        yield failed(part, f"{listed([one.name for one in found_odd])}: {off}{listed(list(causes))}", ADVICE)
    if not odd:
        by_type = ", ".join(f"{kind} {error:.2g}" for kind, error in sorted(largest.items()))
        read = [f"{num_whole:,} byte by byte"] if num_whole else []
        if num_whole < len(names):
            read.append(f"{len(names) - num_whole:,} in {rows} rows of each matrix")
        yield passed("all tensors", f"{len(names):,} are the other file's as far as their types allow "
                     f"({', '.join(read)}): {by_type}")  # fmt: skip


def _joined(odd: Mapping[str, list[Odd]]) -> dict[str, list[Odd]]:
    """Returns the odd tensors by part, experts of a layer together where they are many."""
    experts: dict[str, list[str]] = defaultdict(list)
    for part in odd:
        if " expert " in part:
            experts[part.partition(" expert ")[0]].append(part)
    joined: dict[str, list[Odd]] = {}
    for part, found in odd.items():
        layer = part.partition(" expert ")[0]
        many = len(experts.get(layer, ())) > MOST_EXPERTS and " expert " in part
        joined.setdefault(f"{layer} experts" if many else part, []).extend(found)
    return joined


def distance(found: Tensor, expected: Tensor) -> float:
    """Returns the RMS of the difference over that of `expected`; infinity for NaN."""
    if torch.equal(found, expected):
        return 0.0
    error = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp_min(1e-30))
    return error if error == error else float("inf")


def allowed_of(one: str, other: str) -> float:
    """Returns what two types may differ by: nothing for those of the same values."""
    if one == other or {one, other} <= SAME:
        return 1e-6
    return ALLOWED.get(one, 1e-6) + ALLOWED.get(other, 1e-6)


def _cause(name: str, found: Tensor, expected: Tensor, others: Refs, rows: int) -> str:
    """Returns what a tensor is instead."""
    limit = EXPLAINED * distance(found, expected)
    if not bool(torch.isfinite(found).all()):
        return "NaN or infinity"
    if not bool(found.any()):
        return "zeros alone"
    factor = float((found * expected).sum() / expected.square().sum().clamp_min(1e-30))
    if distance(found, factor * expected) < limit * abs(factor):
        return f"{factor:.3g} times the other's"
    for candidate in _like(name, others):
        values = sample(others, candidate, rows)
        if values.shape == found.shape and distance(found, values) < limit:
            return f"is the other file's {candidate}"
    return "another model's, or damaged"


def _like(name: str, others: Refs) -> Iterator[str]:
    """Yields names that a tensor may have been taken for: of the layer's experts, then of other layers."""
    layer, rest = layer_of(name)
    if found := EXPERT.fullmatch(rest):
        prefix = f"{layer}.ffn.experts."
        yield from (other for other in others if other.startswith(prefix) and other.endswith(f".{found[2]}")
                    and other != name)  # fmt: skip
    yield from (other for other in others if layer and layer_of(other)[1] == rest and other != name)


def _configuration(config: ModelConfig, other: ModelConfig) -> Iterator[Finding]:
    keys = [key for key in ModelConfig.__dataclass_fields__ if getattr(config, key) != getattr(other, key)]
    wrong = [key for key in keys if key not in WITHOUT_NUMBERS]
    if "compress_ratios" in wrong and config.main_layers == other.main_layers:  # without the MTP layers
        wrong.remove("compress_ratios")
    for key in wrong:
        yield failed(key, f"{key} = {getattr(config, key)}; {getattr(other, key)} in the other file",
                     f"set {key} to {getattr(other, key)}")  # fmt: skip
    if not wrong:
        named = [f"{key} = {getattr(config, key)}, {getattr(other, key)} there" for key in keys]
        differs = f"; differs in {'; '.join(named)}, which no logits depend on" if named else ""
        yield passed("configuration", f"all keys that decide numbers have the other file's values{differs}")


def _vocabulary(path: Path, other: Path) -> Iterator[Finding]:
    texts, other_texts = texts_of(path), texts_of(other)
    if texts is None or other_texts is None:
        yield skipped("tokenizer", "one of the files has none")
        return
    model, other_model = (json.loads(text[0])["model"] for text in (texts, other_texts))
    merges, other_merges = ([tuple(_pair(merge)) for merge in one["merges"]] for one in (model, other_model))
    tokens = {name: number for name, number in other_model["vocab"].items() if name in model["vocab"]}
    moved = [name for name, number in tokens.items() if model["vocab"][name] != number]
    if merges != other_merges:
        first = next((i for i, (a, b) in enumerate(zip(merges, other_merges, strict=False)) if a != b), len(merges))
        yield failed("tokenizer merges", f"{len(merges):,} merges, {len(other_merges):,} in the other file; they "
                     f"differ from number {first:,} on", ADVICE)  # fmt: skip
    if moved:
        yield failed("tokenizer", f"{len(moved)} tokens have other ids: {listed(moved)}", ADVICE)
    if merges == other_merges and not moved:
        yield passed("tokenizer", f"{len(merges):,} merges and their ids are the other file's")
    template, other_template = (json.loads(text[1] or "{}").get("chat_template") for text in (texts, other_texts))
    if template != other_template and other_template is not None:
        yield failed("template", "is not the other file's", ADVICE)


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge
