"""Deliberately wrong variants of the model, and for each the check of this suite that must not let it through.

A mutant replaces one piece of production code. The checks are the tests of tests/ops/test_vectors.py,
tests/quant/test_op_vectors.py and tests/model/test_released.py themselves: what fails here would fail there.
Each check is also run without a mutant. tests/model/test_transformers.py has mutants of its own, in exact arithmetic.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.checks import EXACT, RELEASED, op_vectors
from tests.model import test_released as released
from tests.ops import test_vectors as vectors
from tests.quant import test_op_vectors as formats
from wavefold import ops, quant
from wavefold.cache import paged_view
from wavefold.model import attention
from wavefold.model.attention import Attention
from wavefold.model.batch import Batch
from wavefold.model.compressor import Compressor
from wavefold.model.mtp import MTP
from wavefold.model.router import Router
from wavefold.ops.reference import compress, hyper_connection, kv
from wavefold.quant import activation, e2m1

HC_OPS = sys.modules["wavefold.ops.hyper_connection"]
NORMS = sys.modules["wavefold.ops.reference.norm"]


class Check(NamedTuple):
    """A test of this suite with its arguments."""

    function: Callable[..., None]
    arguments: tuple[Any, ...]

    def __call__(self) -> None:
        self.function(*self.arguments)

    def __str__(self) -> str:
        return f"{self.function.__name__}({', '.join(map(str, self.arguments))})"


class Mutant(NamedTuple):
    """`owner.attribute` becomes change(what it was)."""

    name: str
    owner: Any
    attribute: str
    change: Callable[[Any], Any]
    check: Check


def inside(name: str, layer: int) -> Check:
    return Check(released.test_inside_a_layer, (name, layer))


def output(name: str, layer: int) -> Check:
    return Check(released.test_output_of_a_layer, (name, layer))


def visible(ratio: int, position: int, count: int) -> Check:
    return Check(vectors.test_number_of_visible_entries, (ratio, position, count, RELEASED))


def act_quant() -> None:
    formats.test_act_quant(op_vectors())


SINKHORN = Check(vectors.test_sinkhorn, ())
SPARSE_ATTENTION = Check(vectors.test_sparse_attention, (0,))
FULL_WINDOW = Check(vectors.test_window_of_a_decode_step, (128, RELEASED))
POOL = Check(released.test_pool_equals_whole_sequence, ("small-a",))


# -- variants that take more than a line -------------------------------------------------------------------------------


def half_a_post(f: Callable[..., Any]) -> Callable[..., Any]:
    def weights(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        pre, post, comb = f(*args)
        return pre, post / 2, comb

    return weights


def ape_at(place: Callable[[Tensor, int], Tensor | None]) -> Callable[..., Any]:
    """The compressor's positional bias taken from place(positions, ratio), or from nowhere."""

    def change(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def project(self: Compressor, h: Tensor, batch: Batch, arithmetic: ops.Arithmetic) -> Tensor:
            rows, slots = f(self, h, batch, arithmetic), place(batch.positions, self.ratio)
            rows[:, 1] -= self.ape[batch.positions % self.ratio]
            rows[:, 1] += 0 if slots is None else self.ape[slots]
            return rows

        return project

    return change


def entries_moved_by(offset: Callable[[int], int]) -> Callable[..., Any]:
    def change(f: Callable[..., Any]) -> Callable[..., Any]:
        def entry_table(self: Batch, first: int, end: int, ratio: int) -> tuple[Tensor, Tensor]:
            return ops.rope_table(torch.arange(first, end) * ratio + offset(ratio), self.frequencies[True])

        return entry_table

    return change


def halves_swapped(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def swap(x: Tensor) -> Tensor:
        return x.roll(x.shape[-1] // 2, -1)

    return lambda kv, score, *args: f(swap(kv), swap(score), *args)


def stale_block(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As in the official code, a new sequence finds the compressor's last block of the sequence before it."""
    last: dict[tuple[int, float], Tensor] = {}

    def beside_previous(rows: Tensor, nothing: float, has_previous: bool) -> Tensor:
        key = rows.shape[-1], nothing
        stale, last[key] = last.get(key), rows[-1:].clone()
        if has_previous or stale is None:
            return f(rows, nothing, has_previous)
        return f(torch.cat((stale, rows)), nothing, True)

    return beside_previous


def biased_weights(f: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Router, h: Tensor, tokens: Tensor, arithmetic: ops.Arithmetic) -> tuple[Tensor, Tensor]:
        scores = ops.router_scores(h, self.weight, arithmetic) + self.bias
        ids = scores.topk(self.topk).indices
        return ops.route_weights(scores, ids, self.scale), ids

    return forward


def routed_by_affinity(f: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Router, h: Tensor, tokens: Tensor, arithmetic: ops.Arithmetic) -> tuple[Tensor, Tensor]:
        scores = ops.router_scores(h, self.weight, arithmetic)
        ids = scores.topk(self.topk).indices
        return ops.route_weights(scores, ids, self.scale), ids

    return forward


def weighted_after_w2(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def expert(x: Tensor, w1: Any, w2: Any, w3: Any, route: Tensor | None, *args: Any) -> Tensor:
        y = f(x, w1, w2, w3, None, *args)
        return y if route is None else y * route

    return expert


def window_of(change_by: int) -> Callable[..., Any]:
    def change(f: Callable[..., None]) -> Callable[..., None]:
        def init(self: Attention, *args: Any) -> None:
            f(self, *args)
            self.window += change_by

        return init

    return change


def swapped_nibbles(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda packed, *args: f((packed.int() << 4 | (packed.int() >> 4 & 15)).to(torch.uint8), *args)


def sigmoid_for_exp(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """softmax(log sigmoid(x)) is sigmoid(x) over its sum."""
    return lambda logits, *args: f(F.logsigmoid(logits), *args)


MUTANTS = [
    # hyper-connections
    Mutant("mHC matrix not transposed", ops, "hc_expand",
           lambda f: lambda out, x, post, comb, a: f(out, x, post, comb.mT, a), output("small-b", 1)),
    Mutant("post without its factor 2", HC_OPS, "hc_weights", half_a_post, inside("small-b", 0)),
    Mutant("Sinkhorn from a sigmoid", hyper_connection, "sinkhorn", sigmoid_for_exp, SINKHORN),
    Mutant("Sinkhorn one round short", hyper_connection, "sinkhorn",
           lambda f: lambda comb, iters, eps: f(comb, iters - 1, eps), SINKHORN),
    Mutant("Sinkhorn over rows for columns", hyper_connection, "sinkhorn",
           lambda f: lambda comb, iters, eps: f(comb.mT, iters, eps).mT, SINKHORN),
    # formats and GEMMs
    Mutant("swapped nibbles", e2m1, "decode", swapped_nibbles, Check(vectors.test_gemm, ("fp4", 0))),
    Mutant("no floor of an activation's scale", activation, "FP8_FLOOR", lambda floor: 0.0,
           Check(act_quant, ())),
    Mutant("no FP8 activations", quant, "fp8_sim",
           lambda f: lambda x, block: x if block == 128 else f(x, block), inside("small-b", 0)),
    # compressors
    Mutant("compressor weighs by sigmoid", ops, "compress_blocks",
           lambda f: lambda kv, score, *args: f(kv, F.logsigmoid(score), *args), inside("small-b", 0)),
    Mutant("ape missing", Compressor, "project", ape_at(lambda positions, ratio: None), inside("small-b", 0)),
    Mutant("ape begins anew with each pass", Compressor, "project",
           ape_at(lambda positions, ratio: torch.arange(len(positions)) % ratio), POOL),
    Mutant("wrong stream half first", ops, "compress_blocks", halves_swapped, inside("small-a", 1)),
    Mutant("entry at its block's last token", Batch, "entry_table", entries_moved_by(lambda ratio: ratio - 1),
           inside("small-b", 0)),
    Mutant("entry where the block before begins", Batch, "entry_table", entries_moved_by(lambda ratio: -ratio),
           inside("small-a", 1)),
    Mutant("state not reset between sequences", compress, "_beside_previous", stale_block,
           Check(released.test_a_second_sequence_starts_clean, ("small-a",))),
    # attention
    Mutant("YaRN on the wrong layers", Batch, "table", lambda f: lambda self, compressed: self.rope[not compressed],
           inside("small-a", 1)),
    Mutant("rotation not undone", ops, "rotate",
           lambda f: lambda x, *args, inverse=False: x if inverse else f(x, *args), inside("small-b", 0)),
    Mutant("query norm in float32", NORMS, "unit_rms_norm", lambda f: lambda q, eps, a: f(q, eps, EXACT),
           inside("small-b", 0)),
    Mutant("KV not simulated", ops, "kv_sim", lambda f: lambda kv, *args: kv, inside("small-b", 0)),
    Mutant("one KV scale for 448", kv, "KV_BLOCK", lambda block: 448, Check(vectors.test_kv_sim, ())),
    Mutant("sink left out", ops.RunningSoftmax, "finish",
           lambda f: lambda self, sink: f(self, torch.full_like(sink, -torch.inf)), SPARSE_ATTENTION),
    Mutant("probabilities not rounded", ops.RunningSoftmax, "__init__",
           lambda f: lambda self, q, a: f(self, q, EXACT), SPARSE_ATTENTION),
    Mutant("keys in pieces of 128", ops, "RELEASED_PIECE", lambda piece: 128, SPARSE_ATTENTION),
    Mutant("empty slots not masked", ops.RunningSoftmax, "add", lambda f: lambda self, keys, _: f(self, keys, None),
           SPARSE_ATTENTION),
    Mutant("window of 127", Attention, "__init__", window_of(-1), FULL_WINDOW),
    Mutant("window of 129", Attention, "__init__", window_of(1), FULL_WINDOW),
    Mutant("CSA block visible one token early", attention, "num_visible",
           lambda f: lambda positions, ratio: f(positions + 1, ratio), visible(4, 2, 0)),
    Mutant("CSA block visible one token late", attention, "num_visible",
           lambda f: lambda positions, ratio: f(positions - 1, ratio), visible(4, 3, 1)),
    Mutant("HCA block visible one token early", attention, "num_visible",
           lambda f: lambda positions, ratio: f(positions + 1, ratio), visible(128, 126, 0)),
    Mutant("HCA block visible one token late", attention, "num_visible",
           lambda f: lambda positions, ratio: f(positions - 1, ratio),
           Check(vectors.test_entries_of_an_hca_layer, (0, EXACT))),
    Mutant("block visible before it is complete, in the pool", attention, "num_visible",
           lambda f: lambda positions, ratio: f(positions + 1, ratio), POOL),
    Mutant("window ring read one token late", paged_view, "ring_rows",
           lambda f: lambda ring, first, end: f(ring, first, end).roll(-1, 0), POOL),
    # indexer
    Mutant("no Hadamard", quant, "hadamard", lambda f: lambda x: x, inside("small-a", 1)),
    Mutant("no FP4 in the indexer", quant, "fp4_sim", lambda f: lambda x, block: x, inside("small-a", 1)),
    Mutant("index weights without the heads' factor", ops, "index_weights",
           lambda f: lambda x, heads, dim: f(x, 1, dim), inside("small-a", 1)),
    Mutant("index scores not rounded", ops, "index_scores", lambda f: lambda q, w, k, a: f(q, w, k, EXACT),
           inside("small-b", 1)),
    Mutant("one entry fewer chosen", ops.RunningTopK, "__init__",
           lambda f: lambda self, n, k, device: f(self, n, k - 1, device),
           Check(released.test_choice_of_the_indexer, ("small-b", 1))),
    # experts
    Mutant("bias in the routing weights", Router, "forward", biased_weights, inside("small-a", 2)),
    Mutant("routed by affinity for by token", Router, "forward", routed_by_affinity, inside("small-a", 1)),
    Mutant("routing weights not normalised", ops, "route_weights",
           lambda f: lambda scores, ids, scale: torch.gather(scores, 1, ids) * scale, inside("small-a", 2)),
    Mutant("routing weight after w2", ops, "expert", weighted_after_w2, inside("small-b", 0)),
    Mutant("SwiGLU without its limit", ops, "expert",
           lambda f: lambda x, w1, w2, w3, route, limit, a: f(x, w1, w2, w3, route, torch.inf, a),
           inside("small-b", 0)),
    # MTP
    Mutant("MTP on the token itself", MTP, "predict",
           lambda f: lambda self, streams, embedded, *args: f(self, streams, embedded.roll(1, 0), *args),
           Check(released.test_mtp_module, ())),
]  # fmt: skip

CHECKS = {str(mutant.check): mutant.check for mutant in MUTANTS}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_check_passes_without_a_mutant(check: Check) -> None:
    check()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutant.owner, mutant.attribute, mutant.change(getattr(mutant.owner, mutant.attribute)))
    with pytest.raises(AssertionError):
        mutant.check()
