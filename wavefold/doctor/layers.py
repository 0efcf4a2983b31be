"""Each layer alone: the kernels against plain torch from the same streams, and the cached rows against a formula.

streams --references--> streams after the layer --> the next layer
   |----the kernels---> compared; their window rows are read out of the cache
   '----kv_of_hidden--> the same rows once more, by the lines below alone
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold import ops
from wavefold.cache import FreshView, PagedView
from wavefold.doctor.finding import OF_THE_MACHINE, Finding, failed, passed, skipped
from wavefold.doctor.patient import Patient
from wavefold.model import Transformer
from wavefold.model.batch import Batch
from wavefold.model.block import Block
from wavefold.model.cpu_layers import CpuLayer, CpuLayers, run_layers

TOKENS, TOKENS_OF_LARGE = 144, 24
MOST_ERROR = 0.03
"""RMS of the difference over RMS of what the layer adds. Other orders of sums, and near ties of choices, make 0.01."""
MOST_USUAL, LAST = 0.006, 16
"""The same of the median of the last tokens, in layers without a choice, with FP4 and FP8: 0 as a rule."""
LEAST_EQUAL = 0.9
"""The share of cached values that equal the formula's. Sums in another order move single roundings."""


@torch.no_grad()
def layers(patient: Patient) -> Iterator[Finding]:
    model = patient.model
    assert model is not None
    tokens = patient.tokens(TOKENS_OF_LARGE if patient.is_large else TOKENS)
    blocks: list[Block] = list(model.layers)  # type: ignore[arg-type]
    pool = model.new_pool(len(tokens), draft_tokens=len(tokens))
    sequence = pool.open()
    looked: list[Looked] = []
    with (model.runtime or ops.current()).active():
        [view] = pool.begin([sequence], [len(tokens)])
        cpu = CpuLayers()
        compiled = cpu.layers if cpu.of(model, [view]) else None
        with ops.using(backend="reference"):
            streams = model.embed(tokens, model.arithmetic)[:, None].expand(-1, model.num_streams, -1).contiguous()
        for block in blocks:
            if looked and patient.time_left < 0:
                break
            one, streams = _look(model, block, streams, tokens, view, compiled)
            looked.append(one)
        pool.abort([view])
    sequence.close()
    for number, one in enumerate(looked):
        yield from one.failures(f"layers.{number}")
    if compiled is None:
        yield skipped("kernels", "do not run this model's layers: plain torch computes", "see docs/kernels.md")
    if not any(list(one.failures("")) for one in looked):
        error, equal = max(one.error for one in looked), min(one.equal for one in looked)
        yield passed(f"{len(looked)} layers", f"off by at most {error:.2%} of what a layer adds; {equal:.1%} of the "
                     "cached KV equal the formula's")  # fmt: skip
    if len(looked) < len(blocks):
        yield skipped(f"layers.{len(looked)} and later", "there was no time for them", "give more --seconds")


class Looked(NamedTuple):
    """`error`, `usual`: of the kernels in a layer; `equal`: the share of cached values that are right."""

    error: float
    usual: float
    is_sharp: bool
    equal: float

    def failures(self, part: str) -> Iterator[Finding]:
        if not self.error <= MOST_ERROR:
            yield failed(part, f"the kernels are off by {self.error:.1%} of what the layer adds", OF_THE_MACHINE)
        elif self.is_sharp and not self.usual <= MOST_USUAL:
            yield failed(part, f"the kernels are off by {self.usual:.1%} of what the layer adds, for half of the "
                         "tokens and more", OF_THE_MACHINE)  # fmt: skip
        if self.equal < LEAST_EQUAL:
            yield failed(f"{part} KV", f"{1 - self.equal:.1%} of the cached values are not the rounding that the "
                         "arithmetic asks for", OF_THE_MACHINE)  # fmt: skip


def _look(
    model: Transformer, block: Block, streams: Tensor, tokens: Tensor, view: PagedView, compiled: list[CpuLayer] | None
) -> tuple[Looked, Tensor]:  # fmt: skip
    """Runs a layer both ways from `streams`. Returns what was seen, and the streams after it by plain torch."""
    number = block.attn.layer
    fresh = Batch.of(model.config, tokens, [FreshView(len(tokens))])
    with ops.using(backend="reference"):
        expected = block(streams, fresh, model.experts, model.arithmetic)
        rows, formulas = _cached_by_torch(model, block, streams, fresh)
    cached, error, usual = [rows], 0.0, 0.0
    if compiled is not None:
        batch = Batch.of(model.config, tokens, [view])
        after = run_layers(
            [compiled[number]], streams.clone(), batch, model.experts, model.config, model.arithmetic
        )  # fmt: skip
        error, usual = _errors(after, expected, streams)
        cached.append(_ring(view, number, len(tokens), model))
    equal = min(max(_share(found, formula) for formula in formulas) for found in cached)
    return Looked(error, usual, _is_sharp(block, model), equal), expected


def _errors(found: Tensor, expected: Tensor, before: Tensor) -> tuple[float, float]:
    """Returns the error over what the layer adds: of all tokens, and the median of the last ones."""
    off, added = (found.float() - expected.float()).square(), (expected.float() - before.float()).square()
    by_token = off.mean((1, 2)) / added.mean((1, 2)).clamp_min(1e-30)
    return float((off.mean() / added.mean()).sqrt()), float(by_token[-LAST:].median().sqrt())


def _is_sharp(block: Block, model: Transformer) -> bool:
    """True for a layer that kernels and references compute alike but for single roundings: without a choice of entries.

    Only with matrices in FP4 and FP8: products in other formats are rounded at other places.
    """
    forms = {block.attn.wq_a.stored.format.name, model.experts.store.stored(block.ffn.layer, 0).form}
    return not block.attn.spec.indexed and forms <= {"fp4", "fp8"}


def _share(found: Tensor, expected: Tensor) -> float:
    return float((found == expected).float().mean())


def _cached_by_torch(model: Transformer, block: Block, streams: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Returns the layer's window rows as the references make and store them, and by `kv_of_hidden`.

    The latter with the weight as it is and, since references and tiles of kernels round it so, in bfloat16.
    """
    fn, base, scale = (block.get_parameter(f"hc_attn_{name}") for name in ("fn", "base", "scale"))
    x, *_ = ops.hc_read(streams, fn, base, scale, block.iters, block.hc_eps, block.norm_eps, model.arithmetic)
    h = block.attn_norm(x, model.arithmetic)
    kv = block.attn.project(h, batch, model.arithmetic)[2]
    record = model.records.kv
    weight: Tensor = block.attn.wkv.stored.decode(torch.float32)
    formulas = [
        kv_of_hidden(h, values, block, batch.positions, model) for values in (weight, weight.bfloat16().float())
    ]
    return record.decode(record.encode(kv)).float(), formulas


def _ring(view: PagedView, layer: int, count: int, model: Transformer) -> Tensor:
    """Returns the window rows that the kernels wrote, oldest first; the ring holds all of them."""
    ring = view.window_rows(layer).storage
    return model.records.kv.decode(ring[:count]).float()


def kv_of_hidden(h: Tensor, weight: Tensor, block: Block, positions: Tensor, model: Transformer) -> Tensor:
    """Returns the window rows [n, c] of normalised states h [n, hidden] by the values of `wkv`, rounding by rounding.

    Plain torch that shares no line with the model: report sections 2.3 and 3.4.
    """
    attn, config, released = block.attn, model.config, model.arithmetic.released
    x = fp8_and_back(h.float(), 128) if attn.wkv.stored.format.is_quantized and released else h.float()
    y = (x @ weight.T).bfloat16().float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + config.rms_norm_eps)
    y = (y * attn.kv_norm.weight.float()).bfloat16().float()
    rope = config.qk_rope_head_dim
    angles = positions.float()[:, None] * ops.rope_frequencies(config, attn.spec.compressed)
    plain, turned = y[:, :-rope], torch.view_as_complex(y[:, -rope:].reshape(len(y), -1, 2).contiguous())
    turned = torch.view_as_real(turned * torch.polar(torch.ones_like(angles), angles)).flatten(1).bfloat16().float()
    return torch.cat((fp8_and_back(plain, 64) if released and plain.shape[1] else plain, turned), 1)


def fp8_and_back(x: Tensor, block: int) -> Tensor:
    """Returns x [n, columns] through e4m3, with a power of two for each row and `block` columns, as bfloat16 values."""
    parts = []
    for piece in x.split(block, -1):
        scale = torch.exp2(torch.ceil(torch.log2(piece.abs().amax(-1, keepdim=True).clamp_min(1e-4) / 448)))
        parts.append((piece / scale).to(torch.float8_e4m3fn).float() * scale)
    return torch.cat(parts, -1).bfloat16().float()
