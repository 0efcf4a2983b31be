"""One pass of a text through a model, for its `Importance`; the pass may be interrupted and go on later.

Experts are computed one after another, as `LocalExperts` does, and told on the way. The sensitivity of a layer's w1, w2
or w3 comes from a second, short pass for each: every expert's matrix is off by noise, the same for all tokens as that
of rounding is, and the logits move. (Noise that is anew for each token in a layer's output says that early layers
matter most, and nothing of the gate, which hides most of what w1 and w3 are off by.)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from wavefold import ops
from wavefold.experts import LocalExperts
from wavefold.experts.compute import Adapted
from wavefold.experts.table import MATRICES
from wavefold.model import Transformer
from wavefold.ops import Arithmetic
from wavefold.ops.reference import expert as reference
from wavefold.quant import Weight
from wavefold.quantize.importance import Importance

CHUNK_TOKENS = 512
"""Tokens of a sequence: each chunk begins a new one."""
SAVE_S = 60.0
NOISE = 0.2
"""Share of noise in the products of a matrix, as a norm: that of about two bits."""
SEED = 20


class ObservedExperts(LocalExperts):
    """Computes experts here and adds what they saw to `importance`. With `noisy`, a layer's w1, w2 or w3 are off."""

    takes_views = False
    importance: Importance | None = None
    noisy: tuple[int, str] | None = None

    def routed(
        self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, adapted: Adapted | None = None
    ) -> Tensor:  # fmt: skip
        out = h.new_zeros(h.shape, dtype=self.arithmetic.accumulate)
        for expert in ids.unique().tolist():
            rows, slots = (ids == expert).nonzero(as_tuple=True)
            with self.store.acquire(layer, [expert]) as view:
                y = self._expert(layer, expert, h[rows], tuple(view[expert]), weights[rows, slots][:, None])
            out.index_add_(0, rows, y.to(out.dtype))
        return out

    def _expert(self, layer: int, expert: int, x: Tensor, matrices: tuple[Weight, ...], route: Tensor) -> Tensor:
        inputs: list[Tensor] = []

        def linear(x: Tensor, weight: Weight, arithmetic: Arithmetic) -> Tensor:
            y = ops.linear(x, weight, arithmetic)
            matrix = ("w1", "w3", "w2")[len(inputs)]
            inputs.append(x)
            return y if (layer, matrix) != self.noisy else with_noise(y, x, weight, SEED + expert)

        w1, w2, w3 = matrices
        y = reference.expert(x, w1, w2, w3, route, self.limit, self.arithmetic, linear)
        if self.importance is not None and layer < len(self.importance.h):
            self.importance.add(layer, expert, inputs[0], inputs[2], y)
        return y


def with_noise(y: Tensor, x: Tensor, weight: Weight, seed: int) -> Tensor:
    """Returns the products y [tokens, rows] of x [tokens, columns] with a matrix that is off by random noise.

    Each row of the matrix is off in proportion to its size, so that all products together are off by `NOISE` of their
    norm. Of the noise N [columns, rows] only what meets x is made: x N = R' (Q' N) for x = R' Q', and Q' N is noise.
    """
    of_x = torch.linalg.qr(x.float().T, mode="r").R.T
    noise = torch.randn(of_x.shape[1], y.shape[1], generator=torch.Generator().manual_seed(seed))
    off = of_x @ (noise * weight.decode(torch.float32).square().mean(1).sqrt())
    return y + (off * (NOISE * y.float().norm() / off.norm().clamp(min=torch.finfo(torch.float32).tiny))).to(y.dtype)


def observe(
    model: Transformer, ids: Sequence[int], path: Path, chunk_tokens: int = CHUNK_TOKENS,
    on_chunk: Callable[[int, int], None] = lambda done, of: None, sensitivity_tokens: int = CHUNK_TOKENS,
) -> Importance:  # fmt: skip
    """Returns the importance of a model's experts for the text `ids`, in chunks of `chunk_tokens`.

    The file `path` is written every minute and at the end; a file of the same text, chunks and sizes goes on where it
    stopped, and a complete one is returned at once. `sensitivity_tokens`: of the first chunk, for the sensitivity of
    layers' matrices (0: none). `on_chunk(done, of)` counts chunks and then these. The model computes as before
    afterwards. Raises ValueError for a text without ids and for a file of another text.
    """
    if not ids:
        raise ValueError("the text has no tokens; expected some thousands")
    chunks = [ids[at : at + chunk_tokens] for at in range(0, len(ids), chunk_tokens)]
    digest = hashlib.sha256(torch.tensor(ids, dtype=torch.int32).numpy().tobytes()).hexdigest()
    notes = {"text": digest, "chunk": str(chunk_tokens), "of": str(len(chunks)), "noise": str(sensitivity_tokens)}
    importance = _begun(path, model, notes)
    probes = len(MATRICES) * model.config.num_hidden_layers if sensitivity_tokens else 0
    usual, arithmetic = model.experts, model.arithmetic
    observed = ObservedExperts(usual.store, model.arithmetic, model.config.swiglu_limit)
    model.experts = observed
    model.tell_chosen(None)  # what was prepared for the usual experts is prepared anew
    try:
        observed.importance = importance
        saved = time.monotonic()
        for number in range(int(importance.notes["chunks"]), len(chunks)):
            _run(model, chunks[number])
            importance.notes["chunks"] = str(number + 1)
            on_chunk(number + 1, len(chunks) + probes)
            if time.monotonic() - saved > SAVE_S:
                importance.save(path)
                saved = time.monotonic()
        importance.save(path)
        observed.importance = None
        if probes and not importance.sensitivity.any():
            done = len(chunks)
            model.arithmetic = Arithmetic("exact", torch.float32)  # roundings of bfloat16 move the logits more
            importance.sensitivity = _sensitivity(
                model, observed, chunks[0][:sensitivity_tokens], lambda probe: on_chunk(done + probe, done + probes)
            )
            importance.save(path)
    finally:
        model.experts = usual
        model.arithmetic = arithmetic
        model.tell_chosen(None)
    return importance


def _begun(path: Path, model: Transformer, notes: dict[str, str]) -> Importance:
    """Returns what the file holds already, or an empty importance."""
    if not path.exists():
        importance = Importance.empty(model.config)
        importance.notes = {**notes, "chunks": "0"}
        return importance
    importance = Importance.load(path, model.config)
    if differing := [key for key, value in notes.items() if importance.notes.get(key) != value]:
        raise ValueError(
            f"{path}: is of another text or other chunks ({', '.join(differing)} differ); give another name, or the "
            "same text"
        )
    return importance


def _run(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Returns the hidden states of a new sequence."""
    with torch.no_grad():
        pool = model.new_pool(len(ids))
        return model.extend(torch.tensor(ids), [pool.open()], [len(ids)])


def _sensitivity(
    model: Transformer, observed: ObservedExperts, ids: Sequence[int], on_probe: Callable[[int], None]
) -> Tensor:
    """Returns KL(usual || noisy) of the logits, over the squared share of noise: [layers, 3], for w1, w2, w3."""
    usual = model.logits(_run(model, ids)).log_softmax(1)
    measured = []
    for layer in range(model.config.num_hidden_layers):
        for matrix in MATRICES:
            observed.noisy = layer, matrix
            noisy = model.logits(_run(model, ids)).log_softmax(1)
            measured.append(float((usual.exp() * (usual - noisy)).sum(1).mean()) / NOISE**2)
            on_probe(len(measured))
    observed.noisy = None
    return torch.tensor(measured).clamp_(min=0).view(-1, len(MATRICES))
