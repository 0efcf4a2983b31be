"""The indexer on the CPU kernels against `RunningTopK` of `index_scores`: the same entries in the same order.

Queries and keys of the released arithmetic hold FP4 values, whose dot products float32 sums exactly in any order: the
choice, ties included, is then the reference's. Other values are judged by the scores of what was chosen. Keys that no
query may see are NaN. Each instruction set that the processor has is tested.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checks import RELEASED
from wavefold import ops
from wavefold.cache.record import IndexRecord, PlainRecord, Record
from wavefold.model.attention import num_visible
from wavefold.ops import Arithmetic, native
from wavefold.ops.native import attention as kernels
from wavefold.ops.native.library import require, runtime
from wavefold.ops.native.rows import RowSource

Threads = Callable[[int], AbstractContextManager[None]]

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

EXACT = Arithmetic("exact", torch.bfloat16)
RATIO = 4
IN_BLOCK = 6
"""Entries in a block of the paged storage: no power of two, so that pieces straddle blocks."""


@dataclass(frozen=True)
class Case:
    """n queries, the first at position `first`, and the keys that the last one sees, as records return them."""

    record: Record
    first: int
    k: int
    q: Tensor  # [n, heads, dim]
    weights: Tensor  # [n, heads]
    keys: Tensor  # [m, dim]

    @property
    def visible(self) -> Tensor:
        """Entries that each query sees [n]."""
        return num_visible(self.first + torch.arange(len(self.q)), RATIO)

    def part(self, begin: int, end: int) -> Case:
        keys = self.keys[: num_visible(self.first + end - 1, RATIO)]
        return replace(self, first=self.first + begin, q=self.q[begin:end], weights=self.weights[begin:end], keys=keys)


def make(
    num_queries: int = 3,
    heads: int = 5,
    dim: int = 128,
    num_keys: int = 300,
    k: int = 64,
    quantized: bool = True,
    packed: bool = True,
) -> Case:
    """A random case whose last query sees `num_keys` keys; `quantized`: its values are those of FP4."""
    generator = torch.Generator().manual_seed(num_queries + 10 * heads + dim + num_keys + k)
    record = IndexRecord(dim) if packed else PlainRecord(dim, torch.bfloat16)
    codes = IndexRecord(dim)
    first = max(0, RATIO * num_keys - num_queries + 1)

    def rows(*shape: int) -> Tensor:
        x = torch.randn(*shape, dim, generator=generator) * torch.exp(torch.randn(*shape, 1, generator=generator))
        return codes.decode(codes.encode(x)) if quantized or (packed and len(shape) == 1) else x.bfloat16()

    count = num_visible(first + num_queries - 1, RATIO)
    weights = ops.index_weights(torch.randn(num_queries, heads, generator=generator).bfloat16(), heads, dim)
    return Case(record, first, k, rows(num_queries, heads), weights, rows(count))


def paged(case: Case) -> RowSource:
    """Keys in shuffled blocks among others that are NaN, as is what follows the last key."""
    num_blocks = -(-len(case.keys) // IN_BLOCK)
    table = torch.randperm(2 * num_blocks + 1, generator=torch.Generator().manual_seed(0))[: num_blocks + 1]
    storage = case.record.empty((2 * num_blocks + 1) * IN_BLOCK, device=case.q.device)
    case.record.poison(storage)
    number = torch.arange(len(case.keys))
    storage[table[number // IN_BLOCK] * IN_BLOCK + number % IN_BLOCK] = case.record.encode(case.keys)
    form = "index" if isinstance(case.record, IndexRecord) else "bf16"
    return RowSource(form, case.record.dim, 0, storage, table, IN_BLOCK)


def prepare(case: Case, released: bool = True) -> Callable[[], Tensor]:
    """The call, with its keys laid out."""
    keys = paged(case)
    return partial(kernels.index_select, case.q, case.weights, keys, case.first, RATIO, case.k, released)


def select(case: Case, released: bool = True) -> Tensor:
    return prepare(case, released)()


def chosen_by(scores: Tensor, visible: Tensor, k: int) -> Tensor:
    """int32 [n, k]: the reference's choice."""
    best = ops.RunningTopK(len(scores), k, scores.device)
    best.add(scores, 0, visible)
    out = torch.full((len(scores), k), -1, dtype=torch.int32)
    found = best.finish()
    out[:, : found.shape[1]] = found.int()
    return out


def reference(case: Case, arithmetic: Arithmetic = RELEASED) -> Tensor:
    scores = ops.index_scores(case.q, case.weights, case.keys, arithmetic)
    return chosen_by(scores, case.visible, case.k)


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == torch.int32 and got.shape == expected.shape
    differ = (got != expected).nonzero()
    assert not len(differ), f"{len(differ)} of {got.numel()} differ, the first at {differ[0].tolist()}"


def assert_best(case: Case, got: Tensor, scores: Tensor, slack: Tensor) -> None:
    """No entry that was left out is better than one that was chosen, and none stands before a better one, by more than
    the two scores may be off."""
    assert got.dtype == torch.int32 and got.shape == (len(case.q), case.k)
    for chosen, score, off, visible in zip(got.long(), scores, slack, case.visible.tolist(), strict=True):
        count = min(case.k, visible)
        assert (chosen[count:] == -1).all()
        chosen = chosen[:count]
        assert len(chosen.unique()) == count and (chosen >= 0).all() and (chosen < visible).all()
        best, worst = score + off, score - off
        assert (best[chosen[:-1]] >= worst[chosen[1:]]).all()
        left = torch.ones(visible, dtype=torch.bool)
        left[chosen] = False
        if count and left.any():
            assert best[chosen].min() >= worst[:visible][left].max()


SHAPES = [
    *({"num_queries": n} for n in (1, 2, 7, 8, 9, 31, 32, 33, 70)),
    *({"num_keys": m, "num_queries": n} for m in (0, 1, 2, 63, 64, 65) for n in (1, 9)),
    *({"k": k, "num_queries": n} for k in (1, 3, 299, 300, 301, 512) for n in (1, 9)),
    *({"num_keys": 5000, "k": k, "num_queries": n} for k in (1, 512) for n in (1, 40)),
    *({"heads": heads, "num_queries": 3} for heads in (1, 2, 6, 13, 64)),
    *({"dim": dim, "num_queries": 3} for dim in (2, 30, 32, 64, 96, 160)),
    {"num_keys": 5000, "k": 512, "heads": 64, "num_queries": 2},
]


def name(case: dict[str, Any]) -> str:
    return "-".join(f"{key}{value}" for key, value in case.items())


@pytest.mark.parametrize("packed", [True, False], ids=["fp4", "bf16"])
@pytest.mark.parametrize("given", SHAPES, ids=name)
def test_the_choice_is_the_references(isa: str, given: dict[str, Any], packed: bool) -> None:
    """Released arithmetic on what it is given in a model: equal entries in equal order, then -1."""
    case = make(**given, packed=packed)
    assert_same(select(case), reference(case))


@pytest.mark.parametrize("packed", [True, False], ids=["fp4", "bf16"])
@pytest.mark.parametrize("given", SHAPES, ids=name)
def test_exact_arithmetic(isa: str, given: dict[str, Any], packed: bool) -> None:
    case = make(**given, packed=packed, quantized=False)
    dots = torch.einsum("nhd,md->nhm", case.q.double(), case.keys.double()).relu()
    scores = torch.einsum("nh,nhm->nm", case.weights.double(), dots)
    size = torch.einsum("nh,nhm->nm", case.weights.double().abs(), dots)
    assert_best(case, select(case, released=False), scores, 4e-6 * size)


@pytest.mark.parametrize("given", [{"num_queries": 9}, {"num_keys": 5000, "k": 512}, {"heads": 64}], ids=name)
def test_released_arithmetic_on_any_values(isa: str, given: dict[str, Any]) -> None:
    """Another order of a float32 sum may round a dot product to the next bfloat16: a step of each term at most."""
    case = make(**given, packed=False, quantized=False)
    scores = ops.index_scores(case.q, case.weights, case.keys, RELEASED)
    dots = torch.einsum("nhd,md->nhm", case.q.float(), case.keys.float()).relu()
    size = torch.einsum("nh,nhm->nm", case.weights.float().abs(), dots)
    assert_best(case, select(case), scores, 2**-8 * size)


def test_ties_go_to_the_earlier_entry(isa: str) -> None:
    """Equal keys; keys and weights of zero, where some heads' terms are -0; scores below zero."""
    case = make(num_queries=9, num_keys=5000, k=70)
    keys = case.keys[:1].expand_as(case.keys).contiguous()
    equal = replace(case, keys=keys)
    first = torch.arange(70, dtype=torch.int32).expand(9, -1)
    assert torch.equal(select(equal), first) and torch.equal(reference(equal), first)
    some = torch.where(torch.arange(5000)[:, None] % 3 == 0, keys, 0.0)
    for spoiled in (
        replace(case, keys=some),
        replace(case, keys=some, weights=-case.weights.abs()),
        replace(case, weights=torch.zeros_like(case.weights)),
        replace(case, weights=-case.weights.abs()),
        replace(case, q=torch.zeros_like(case.q), weights=-case.weights.abs()),
    ):
        assert_same(select(spoiled), reference(spoiled))


WHOLE = [
    {"num_keys": 300},
    {"num_keys": 5, "k": 20},
    {"num_keys": 5000, "k": 512, "heads": 7},
    {"num_keys": 3000, "quantized": False, "packed": False},
]


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("given", WHOLE, ids=name)
def test_a_query_does_not_depend_on_the_others(isa: str, given: dict[str, Any], released: bool) -> None:
    """Equal bytes alone, among 3, among 8 and among 64."""
    case = make(num_queries=64, **given)
    whole = select(case, released)
    for size in (1, 3, 8):
        for begin in range(0, 64, max(size, 7)):
            end = min(begin + size, 64)
            assert torch.equal(select(case.part(begin, end), released), whole[begin:end]), (size, begin)


@pytest.mark.parametrize("num_queries", [1, 5, 6, 70])
@pytest.mark.parametrize("given", WHOLE, ids=name)
def test_threads_change_nothing(isa: str, given: dict[str, Any], num_queries: int, threads: Threads) -> None:
    """One query's keys are cut among threads, many queries are cut by query."""
    case = make(num_queries=num_queries, **given)
    again = prepare(case)
    alone = again()
    for count in (2, 3):
        with threads(count):
            assert all(torch.equal(again(), alone) for _ in range(5))
            assert runtime().threads == count


def test_what_an_earlier_call_left_changes_nothing(isa: str) -> None:
    """The pool's scratch full of NaN, with rows that are padded and pieces that are not whole."""
    for dim in (2, 30, 96, 160):
        case = make(num_queries=2, dim=dim)
        left = make(num_queries=2, dim=512, heads=13, packed=False)
        parts = {part: torch.full_like(getattr(left, part), torch.nan) for part in ("q", "weights", "keys")}
        select(replace(left, **parts))
        assert_same(select(case), reference(case))


def test_keys_in_a_tensor_or_pages(isa: str) -> None:
    case = make(num_queries=9)
    tensor = RowSource("index", 128, 0, case.record.encode(case.keys))
    assert torch.equal(kernels.index_select(case.q, case.weights, tensor, case.first, RATIO, 64, True), select(case))


def mutant(case: Case, **change: Any) -> Tensor:
    """The reference with an error in it."""
    q, weights, keys = (change.get(part, getattr(case, part)) for part in ("q", "weights", "keys"))
    arithmetic = change.get("arithmetic", RELEASED)
    scores = ops.index_scores(q, weights, keys, arithmetic)
    if change.get("no_relu"):
        dots = torch.einsum("nhd,md->nhm", q.float(), keys.float()).bfloat16()
        scores = (dots * weights[..., None]).float().sum(1).bfloat16().float()
    visible = case.visible + change.get("more", 0)
    if change.get("later"):
        return len(keys) - 1 - chosen_by(scores.flip(1), visible, case.k)
    return chosen_by(scores, visible, case.k)


MUTANTS: list[tuple[str, Callable[[Case], Tensor]]] = [
    ("no relu", lambda case: mutant(case, no_relu=True)),
    ("no rounding", lambda case: mutant(case, arithmetic=EXACT)),
    ("weights of other heads", lambda case: mutant(case, weights=case.weights.roll(1, 1))),
    ("weights of other queries", lambda case: mutant(case, weights=case.weights.roll(1, 0))),
    ("keys one off", lambda case: mutant(case, keys=case.keys.roll(1, 0))),
    ("an entry too few", lambda case: mutant(case, more=-1)),
    ("an entry too many", lambda case: mutant(case, more=1)),
    ("ties to the later", lambda case: mutant(case, later=True)),
]


@pytest.mark.parametrize(("wrong", "change"), MUTANTS, ids=[name for name, _ in MUTANTS])
def test_mutants_are_caught(wrong: str, change: Callable[[Case], Tensor]) -> None:
    """The choice is of all that a query sees, so that each entry's place counts."""
    case = make(num_keys=600, k=700)
    more = replace(case, keys=torch.cat((case.keys, case.keys[:1])))  # complete one token later
    got = select(case)
    assert_same(got, mutant(more))
    with pytest.raises(AssertionError, match="differ, the first at"):
        assert_same(got, change(more))


def call(case: Case, **change: Any) -> int:
    """The library's code for a call of which one argument is another."""
    keys, out = paged(case), torch.empty(len(case.q), case.k, dtype=torch.int32)
    given: dict[str, Any] = {
        "pool": runtime(), "queries": len(case.q), "heads": case.q.shape[1], "q": case.q.data_ptr(),
        "weights": case.weights.data_ptr(), "keys": keys.struct(), "first": case.first, "ratio": RATIO, "k": case.k,
        "released": 1, "out": out.data_ptr(),
    }  # fmt: skip
    for key, value in change.items():
        rows, _, field = key.partition("__")
        if field:
            setattr(given[rows], field, value)
        else:
            given[key] = value
    given["keys"] = None if given["keys"] is None else ctypes.byref(given["keys"])
    return require().wf_index(*given.values())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({}, 0),
        *(({key: None}, 1) for key in ("pool", "q", "weights", "keys", "out", "keys__base")),
        *(({key: value}, 2) for key in ("queries", "heads", "k", "ratio") for value in (0, -1, 1 << 32, 1 << 62)),
        *(({"first": value}, 2) for value in (-1, 1 << 32, 1 << 62)),
        *(({"keys__dim": value}, 2) for value in (0, -2, 127, 1 << 17)),
        *(({"keys__rope_dim": value}, 2) for value in (-1, 129)),
        *(({"keys__form": value}, 4) for value in (-1, 3)),
        *(({"keys__bytes": value}, 3) for value in (0, -68, 67, 69)),
        *(({"keys__table_blocks": value}, 2) for value in (0, -1, 49)),
        *(({"keys__in_block": value}, 2) for value in (0, -1, 1 << 40)),
        ({"keys__bytes": 68}, 3), ({"keys__form": 1, "keys__bytes": 136}, 3),
        ({"keys__table": None, "keys__bytes": 299 * 68}, 2),
    ],
)  # fmt: skip
def test_bad_calls_come_back_as_codes(change: dict[str, Any], error: int) -> None:
    assert call(make(), **change) == error


def test_tables_that_name_no_block_come_back_as_codes() -> None:
    case = make()
    keys = paged(case)
    assert keys.table is not None
    num_blocks = len(keys.storage) // IN_BLOCK
    for block, error in ((-1, 2), (num_blocks, 2), (1 << 40, 2), (num_blocks - 1, 0)):
        for at in (0, 49):
            table = keys.table.clone()
            table[at] = block
            assert call(case, keys__table=table.data_ptr()) == error
        table = keys.table.clone()
        table[50] = block  # of no key that is read
        assert call(case, keys__table=table.data_ptr()) == 0


def test_what_does_not_fit_is_a_value_error() -> None:
    case = make()
    keys = paged(case)
    good: dict[str, Any] = {
        "q": case.q, "weights": case.weights, "keys": keys, "first": case.first, "ratio": RATIO, "k": 64,
        "released": True,
    }  # fmt: skip
    assert (kernels.index_select(**good) >= 0).all()
    for match, change in [
        ("do not fit; expected", {"q": case.q.float()}),
        ("do not fit; expected", {"weights": case.weights.float()}),
        ("do not fit; expected", {"weights": case.weights[1:]}),
        ("keys of 64 values do not fit", {"keys": replace(keys, dim=64)}),
        ("contiguous", {"keys": replace(keys, storage=keys.storage.T.contiguous().T)}),
        ("a block table of torch.int32", {"keys": replace(keys, table=keys.table.int())}),
        ("a size is not positive", {"first": -1}),
        ("a size is not positive", {"first": case.first + 1000}),
        ("a size is not positive", {"ratio": 0}),
        ("a pointer is null", {"k": 0}),
        ("a pointer is null", {"k": -1}),
        ("a pointer is null", {"q": case.q[:0], "weights": case.weights[:0]}),
        ("another size", {"keys": RowSource("index", 128, 0, torch.zeros(9, 67, dtype=torch.uint8))}),
    ]:
        with pytest.raises(ValueError, match=match):
            kernels.index_select(**{**good, **change})
