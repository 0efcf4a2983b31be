"""Attention on the CPU kernels against `RunningSoftmax` in float64, and, rounding by rounding, in released arithmetic.

What a query may not see is NaN in every case: rows of the ring that are out of the window, blocks that the table does
not name, entries that are not complete. Each instruction set that the processor has is tested.
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

from tests.checks import RELEASED, assert_agrees
from wavefold import ops
from wavefold.cache.record import KVRecord, PlainRecord, Record
from wavefold.model.attention import num_visible
from wavefold.ops import Arithmetic, native
from wavefold.ops.native import attention as kernels
from wavefold.ops.native.library import require, runtime
from wavefold.ops.native.rows import RowSource

Threads = Callable[[int], AbstractContextManager[None]]

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

FLOAT64 = Arithmetic("exact", torch.float64)
TOLERANCE = 4e-3
"""RMS error of a head's output over its RMS: bfloat16 weights and outputs. Measured: 3.1e-3 at most."""
PIECE = ops.RELEASED_PIECE
IN_BLOCK = 6
"""Entries in a block of the paged storage: no power of two, so that pieces straddle blocks."""


@dataclass(frozen=True)
class Case:
    """n queries of one sequence, the first at position `first`, and all that they may see, as records return it."""

    record: Record
    first: int
    window: int
    ratio: int
    sink: Tensor  # [heads]
    q: Tensor  # [n, heads, c]
    tokens: Tensor  # [.., c]: up to the last query's, from `base` on
    entries: Tensor  # [m, c]
    chosen: Tensor | None  # [n, k], -1 after the last

    @property
    def base(self) -> int:
        """Position of the first row of `tokens`."""
        return self.first + len(self.q) - len(self.tokens)

    def part(self, begin: int, end: int) -> Case:
        """The same sequence, these of its queries."""
        return replace(
            self,
            first=self.first + begin,
            q=self.q[begin:end],
            tokens=self.tokens[: self.first + end - self.base],
            chosen=None if self.chosen is None else self.chosen[begin:end],
        )


def make(
    num_queries: int = 3,
    heads: int = 2,
    dim: int = 64,
    first: int = 300,
    window: int = 128,
    ratio: int = 0,
    topk: int | None = None,
    rope_dim: int = 0,
    packed: bool = False,
) -> Case:
    """A random case; `topk` entries at most are chosen of those that a query sees, at times none."""
    generator = torch.Generator().manual_seed(num_queries + 10 * heads + dim + 3 * first + window + ratio)
    record = KVRecord(dim, rope_dim) if packed else PlainRecord(dim, torch.bfloat16)

    def rows(count: int) -> Tensor:
        x = torch.randn(count, dim, generator=generator) * (1 + torch.rand(count, 1, generator=generator))
        return record.decode(record.encode(x.bfloat16()))

    end = first + num_queries
    base = max(0, first - window)  # one more than the first query sees
    num_entries = num_visible(end - 1, ratio) if ratio else 0
    chosen = None
    if topk is not None:
        chosen = torch.full((num_queries, topk), -1, dtype=torch.int32)
        for i in range(num_queries):
            count = 0 if i % 5 == 4 else max(0, topk - i % 3)
            some = torch.randperm(num_visible(first + i, ratio), generator=generator)[:count]
            chosen[i, : len(some)] = some.int()
    return Case(
        record,
        first,
        window,
        ratio,
        1 + 2 * torch.randn(heads, generator=generator),
        torch.randn(num_queries, heads, dim, generator=generator).bfloat16(),
        rows(end - base),
        rows(num_entries),
        chosen,
    )


def source(case: Case, storage: Tensor, table: Tensor | None = None) -> RowSource:
    form, rope_dim = ("kv", case.record.rope_dim) if isinstance(case.record, KVRecord) else ("bf16", 0)
    return RowSource(form, case.record.dim, rope_dim, storage, table, IN_BLOCK if table is not None else 1)


def ring(case: Case) -> RowSource:
    """A ring with the tokens of the first query's window and NaN beside them; as short as it may be, or longer."""
    before = range(max(0, case.first - case.window + 1), case.first)
    length = max(1, case.window - 1 + 5 * (case.first % 2))
    storage = case.record.empty(length, device=case.q.device)
    case.record.poison(storage)
    for position in before:
        storage[position % length] = case.record.encode(case.tokens[position - case.base])
    return source(case, storage)


def paged(case: Case) -> RowSource:
    """The entries that the last query sees in shuffled blocks, among others that are NaN, as is what follows."""
    count = num_visible(case.first + len(case.q) - 1, case.ratio)
    num_blocks = -(-count // IN_BLOCK)
    table = torch.randperm(2 * num_blocks + 1, generator=torch.Generator().manual_seed(0))[: num_blocks + 1]
    storage = case.record.empty((2 * num_blocks + 1) * IN_BLOCK, device=case.q.device)
    case.record.poison(storage)
    number = torch.arange(count)
    storage[table[number // IN_BLOCK] * IN_BLOCK + number % IN_BLOCK] = case.record.encode(case.entries[:count])
    return source(case, storage, table)


def prepare(case: Case) -> Callable[[], Tensor]:
    """The call, with its rows laid out."""
    fresh = case.tokens[case.first - case.base :]
    entries = paged(case) if case.ratio else None
    return partial(
        kernels.attend, case.q, case.sink, case.first, case.window, ring(case), fresh, entries, case.ratio, case.chosen
    )


def attend(case: Case) -> Tensor:
    return prepare(case)()


def reference(
    case: Case,
    arithmetic: Arithmetic = FLOAT64,
    window: int | None = None,
    piece: int = PIECE,
    visible: Callable[[Tensor, int], Tensor] = num_visible,
) -> Tensor:
    """As model/attention.py: the window, oldest first, then entries, a piece at a time."""
    window = case.window if window is None else window
    softmax = ops.RunningSoftmax(case.q.to(arithmetic.dtype), arithmetic)
    positions = case.first + torch.arange(len(case.q))
    oldest = (positions - window + 1).clamp(min=0)[:, None]
    for slot in range(0, window, piece):
        tokens = oldest + torch.arange(slot, slot + piece)
        rows = (tokens - case.base).clamp(max=len(case.tokens) - 1)
        softmax.add(case.tokens[rows], tokens <= positions[:, None])
    if case.chosen is not None:
        for part in case.chosen.long().split(piece, 1):
            softmax.add(case.entries[part.clamp(min=0)], part >= 0)
    elif case.ratio:
        for first in range(0, len(case.entries), piece):
            rows = case.entries[first : first + piece]
            softmax.add(rows, first + torch.arange(len(rows)) < visible(positions, case.ratio)[:, None])
    return softmax.finish(case.sink.to(arithmetic.accumulate))


def assert_close(got: Tensor, exact: Tensor) -> None:
    """Each head of each query within the tolerance."""
    assert got.shape == exact.shape and got.dtype == torch.bfloat16 and exact.dtype == torch.float64
    error = (got.double() - exact).norm(dim=-1) / exact.norm(dim=-1)
    print(f"error {float(error.max()):.1e}")
    assert (error <= TOLERANCE).all(), f"error {float(error.max()):.1e} at {divmod(int(error.argmax()), got.shape[1])}"


CASES = [
    *({"first": first, "num_queries": n} for first in (0, 1, 126, 127, 128, 1000) for n in (1, 2, 9)),
    *({"num_queries": n, "ratio": 4, "topk": 20, "heads": 5} for n in (1, 2, 7, 8, 9, 33)),
    *({"first": first, "window": 7, "num_queries": 33, "dim": 96} for first in (0, 5, 6, 7, 1000)),
    {"window": 1, "num_queries": 9},
    {"window": 200, "num_queries": 9, "heads": 7, "dim": 2},
    {"heads": 1, "dim": 512, "rope_dim": 64, "packed": True},
    {"heads": 64, "dim": 512, "rope_dim": 64, "packed": True, "ratio": 4, "topk": 70, "num_queries": 2, "first": 1000},
    {"heads": 64, "dim": 512, "rope_dim": 64, "packed": True, "ratio": 128, "num_queries": 8, "first": 1000},
    {"heads": 64, "dim": 64, "rope_dim": 64, "packed": True, "ratio": 4, "num_queries": 9, "first": 40},
    {"heads": 5, "dim": 96, "rope_dim": 64, "packed": True, "ratio": 4, "num_queries": 9, "first": 2},
    {"heads": 5, "dim": 160, "rope_dim": 64, "packed": True, "ratio": 128, "num_queries": 33, "first": 1000},
    {"heads": 5, "dim": 66, "rope_dim": 2, "packed": True, "ratio": 4, "topk": 65, "num_queries": 9, "first": 700},
    {"heads": 2, "dim": 64, "packed": True, "ratio": 4, "topk": 1, "num_queries": 9, "first": 0},
    {"heads": 5, "dim": 64, "ratio": 128, "num_queries": 7, "first": 129 * 128 - 3},
    {"heads": 5, "dim": 96, "ratio": 128, "num_queries": 2, "first": 1100 * 128 - 1},
    {"ratio": 4, "num_queries": 9, "first": 4 * 1024 - 5},
    {"ratio": 4, "num_queries": 1, "first": 4 * 1024 - 1},
    {"ratio": 4, "topk": 1024, "num_queries": 9, "first": 4 * 1300},
    {"ratio": 4, "num_queries": 1, "first": 4 * 2100, "dim": 512, "rope_dim": 64, "packed": True, "heads": 5},
    {"ratio": 4, "num_queries": 33, "first": 4 * 2100, "window": 7},
    {"ratio": 4, "topk": 1100, "num_queries": 3, "first": 4 * 1300},
    {"ratio": 4, "topk": 2100, "num_queries": 9, "first": 4 * 2300, "rope_dim": 0, "packed": True},
    {"ratio": 4, "topk": 1025, "num_queries": 3, "first": 40},
]


def num_attended(num_queries: int = 3, first: int = 300, ratio: int = 0, topk: int | None = None, **_: Any) -> int:
    """Entries that the last query of `make` may attend to."""
    visible = num_visible(first + num_queries - 1, ratio) if ratio else 0
    return visible if topk is None else topk


def name(case: dict[str, Any]) -> str:
    return "-".join(f"{key}{value}" for key, value in case.items())


@pytest.mark.parametrize("given", CASES, ids=name)
def test_against_float64(isa: str, given: dict[str, Any]) -> None:
    case = make(**given)
    assert_close(attend(case), reference(case))


@pytest.mark.parametrize("given", [case for case in CASES if num_attended(**case) <= 1024], ids=name)
def test_released_arithmetic(isa: str, given: dict[str, Any]) -> None:
    """Up to 1,024 entries, the released code's roundings in its order: hardly an output is another bfloat16."""
    case = make(**given)
    assert_agrees("attention", attend(case), reference(case, RELEASED), error=2e-4, equal=0.99)


WHOLE = {"num_queries": 64, "heads": 5, "dim": 96}
BATCHES = [
    {**WHOLE, "first": 0},
    {**WHOLE, "first": 100, "window": 7},
    {**WHOLE, "first": 100, "ratio": 4, "topk": 33, "rope_dim": 64, "packed": True},
    {**WHOLE, "first": 0, "ratio": 4, "rope_dim": 64, "packed": True},
    {**WHOLE, "first": 129 * 128 - 20, "ratio": 128},
    {**WHOLE, "first": 4 * 1024 - 30, "ratio": 4, "rope_dim": 64, "packed": True},
    {**WHOLE, "first": 4 * 2048 - 30, "ratio": 4},
    {**WHOLE, "first": 4 * 1024 - 30, "ratio": 4, "topk": 1026},
]  # the last three cross from one span to two, or from two to three


@pytest.mark.parametrize("given", BATCHES, ids=name)
def test_a_query_does_not_depend_on_the_others(isa: str, given: dict[str, Any]) -> None:
    """Equal bytes alone, among 3, among 8 and among 64."""
    case = make(**given)
    whole = attend(case)
    for size in (1, 3, 8):
        for begin in range(0, 64, max(size, 7)):
            end = min(begin + size, 64)
            assert torch.equal(attend(case.part(begin, end)), whole[begin:end]), (size, begin)


@pytest.mark.parametrize(
    "given",
    [
        {"num_queries": 1, "heads": 5, "first": 4 * 2100, "ratio": 4},
        {"num_queries": 1, "heads": 2, "first": 4 * 2300, "ratio": 4, "topk": 2100},
        {"num_queries": 1, "heads": 1},
        {"num_queries": 1, "heads": 7},
        {"num_queries": 2, "heads": 5, "first": 4 * 1300, "ratio": 4, "rope_dim": 64, "packed": True},
        {"num_queries": 5, "heads": 64, "ratio": 4, "topk": 20},
        {"num_queries": 33, "heads": 5, "first": 4 * 1024 - 30, "ratio": 4},
    ],
    ids=name,
)
def test_threads_change_nothing(isa: str, given: dict[str, Any], threads: Threads) -> None:
    case = make(**given)
    again = prepare(case)
    alone = again()
    for count in (2, 3):
        with threads(count):
            assert all(torch.equal(again(), alone) for _ in range(20))
            assert runtime().threads == count


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "given",
    [
        {"first": 0},
        {"first": 40},
        {"first": 300, "window": 7},
        {"first": 0, "ratio": 4},
        {"first": 128 * 128 - 9, "ratio": 128},
    ],
    ids=name,
)
def test_what_later_queries_see_does_not_leak(isa: str, given: dict[str, Any], value: float) -> None:
    """From one query on, tokens, complete entries and q are no numbers: those before it have the bytes they had."""
    case = make(num_queries=16, **given)
    clean = attend(case)
    for i in range(1, 16):
        q, tokens, entries = case.q.clone(), case.tokens.clone(), case.entries.clone()
        q[i:] = value
        tokens[case.first - case.base + i :] = value
        entries[num_visible(case.first + i - 1, case.ratio) if case.ratio else 0 :] = value
        spoiled = attend(replace(case, q=q, tokens=tokens, entries=entries))
        assert torch.equal(spoiled[:i], clean[:i]), i
        assert spoiled[i:].isnan().any()


def test_what_an_earlier_call_left_changes_nothing(isa: str) -> None:
    """The pool's scratch full of NaN, with rows that are padded and pieces that are not whole."""
    cases = [
        make(num_queries=n, heads=5, dim=dim, first=20, window=7, ratio=4) for n, dim in ((9, 96), (1, 2), (1, 66))
    ]
    clean = [attend(case) for case in cases]
    for case, expected in zip(cases, clean, strict=True):
        left = make(num_queries=9, heads=7, dim=512, ratio=4)
        parts = {part: torch.full_like(getattr(left, part), torch.nan) for part in ("q", "tokens", "entries")}
        assert attend(replace(left, **parts)).isnan().all()
        assert torch.equal(attend(case), expected)


def test_a_ring_or_a_tensor_or_pages(isa: str) -> None:
    """Entries in a plain tensor and `past` as a tensor of all tokens give the bytes of pages and of a ring."""
    case = make(num_queries=9, heads=5, first=20, ratio=4, window=7)
    tokens = make(num_queries=9, heads=5, first=20, ratio=4, window=100).tokens
    case = replace(case, tokens=tokens[20 - 7 :])
    plain = kernels.attend(
        case.q, case.sink, 20, 7, RowSource("bf16", 64, 0, tokens), tokens[20:],
        RowSource("bf16", 64, 0, case.entries), 4,
    )  # fmt: skip
    assert torch.equal(plain, attend(case))


def test_no_chosen_columns_are_no_entries(isa: str) -> None:
    case = make(ratio=4, topk=0)
    assert case.chosen is not None and case.chosen.shape == (3, 0)
    assert torch.equal(attend(case), attend(replace(case, ratio=0, chosen=None)))


MUTANTS: list[tuple[str, Callable[[Case], Tensor]]] = [
    ("window one too large", lambda case: reference(case, window=case.window + 1)),
    ("window one too small", lambda case: reference(case, window=case.window - 1)),
    ("no sink", lambda case: reference(replace(case, sink=torch.full_like(case.sink, -torch.inf)))),
    ("sinks of other heads", lambda case: reference(replace(case, sink=case.sink.roll(1)))),
    ("entries a token early", lambda case: reference(case, visible=lambda t, ratio: num_visible(t + 1, ratio))),
    ("entries a token late", lambda case: reference(case, visible=lambda t, ratio: num_visible(t - 1, ratio))),
    ("an entry dropped", lambda case: reference(case, visible=lambda t, ratio: num_visible(t, ratio) - 1)),
    ("no entries", lambda case: reference(replace(case, ratio=0))),
    ("scale of another width", lambda case: reference(replace(case, q=case.q * (96 / 64) ** 0.5))),
]


@pytest.mark.parametrize(("mutant", "change"), MUTANTS, ids=[name for name, _ in MUTANTS])
def test_mutants_are_caught(mutant: str, change: Callable[[Case], Tensor]) -> None:
    case = make(num_queries=9, heads=3, dim=96, first=200, ratio=4)
    got = attend(case)
    assert_close(got, reference(case))
    with pytest.raises(AssertionError, match="error"):
        assert_close(got, change(case))


@pytest.mark.parametrize("piece", [32, 128])
def test_another_piece_is_caught(piece: int) -> None:
    """The piece is part of the released arithmetic: another one moves more outputs than the kernel may."""
    case = make(num_queries=9, heads=5, first=1000, ratio=4)
    with pytest.raises(AssertionError, match="expected at most"):
        assert_agrees("attention", attend(case), reference(case, RELEASED, piece=piece), error=2e-4, equal=0.99)


def call(case: Case, **change: Any) -> int:
    """The library's code for a call of which one argument is another."""
    fresh = case.tokens[case.first - case.base :].contiguous()
    past, entries, out = ring(case), paged(case), torch.empty_like(case.q)
    given: dict[str, Any] = {
        "pool": runtime(), "queries": len(case.q), "heads": len(case.sink), "q": case.q.data_ptr(),
        "sink": case.sink.data_ptr(), "first": case.first, "window": case.window, "past": past.struct(),
        "fresh": fresh.data_ptr(), "entries": entries.struct(), "ratio": case.ratio,
        "chosen": None if case.chosen is None else case.chosen.data_ptr(),
        "most_chosen": 0 if case.chosen is None else case.chosen.shape[1], "out": out.data_ptr(),
    }  # fmt: skip
    for key, value in change.items():
        rows, _, field = key.partition("__")
        if field:
            setattr(given[rows], field, value)
        else:
            given[key] = value
    for rows in ("past", "entries"):
        given[rows] = None if given[rows] is None else ctypes.byref(given[rows])
    return require().wf_attend(*given.values())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({}, 0),
        *(({key: None}, 1) for key in ("pool", "q", "sink", "past", "fresh", "entries", "out")),
        *(({f"{rows}__base": None}, 1) for rows in ("past", "entries")),
        *(({key: value}, 2) for key in ("queries", "heads", "window") for value in (0, -1, 1 << 32, 1 << 62)),
        *(({"first": value}, 2) for value in (-1, 1 << 32, 1 << 62)),
        *(({"ratio": value}, 2) for value in (-1, 1 << 17)),
        *(({"most_chosen": value}, 2) for value in (-1, 1 << 32)),
        *(({f"{rows}__dim": value}, 2) for rows in ("past", "entries") for value in (0, -2, 1 << 17)),
        *(({f"{rows}__rope_dim": value}, 2) for rows in ("past", "entries") for value in (-1, 65)),
        *(({f"{rows}__form": value}, 4) for rows in ("past", "entries") for value in (-1, 3)),
        ({"past__form": 2, "past__bytes": 34}, 2), ({"entries__form": 2, "entries__bytes": 34}, 3),
        *(({f"{rows}__bytes": value}, 3) for rows in ("past", "entries") for value in (0, -128, 127, 129)),
        ({"past__bytes": 128 * 126}, 2), ({"entries__bytes": 128}, 3), ({"entries__table_blocks": 12}, 2),
        ({"entries__table_blocks": -1}, 2), ({"entries__in_block": 0}, 2), ({"entries__in_block": -1}, 2),
        ({"entries__in_block": 1 << 40}, 2), ({"entries__table": None, "entries__bytes": 75 * 128}, 2),
        ({"past__dim": 32}, 2), ({"entries__dim": 32}, 2),
    ],
)  # fmt: skip
def test_bad_calls_come_back_as_codes(change: dict[str, Any], error: int) -> None:
    assert call(make(ratio=4, topk=20, first=301), **change) == error


def test_rows_that_are_not_there_come_back_as_codes() -> None:
    """A table that names no block; a chosen entry that its query does not see yet."""
    case = make(ratio=4, topk=20, first=301)  # 75, 75 and 76 entries are complete
    assert case.chosen is not None
    entries = paged(case)
    assert entries.table is not None
    num_blocks = len(entries.storage) // IN_BLOCK
    for block, error in ((-1, 2), (num_blocks, 2), (1 << 40, 2), (num_blocks - 1, 0)):
        for at in (0, 12):
            table = entries.table.clone()
            table[at] = block
            assert call(case, entries__table=table.data_ptr()) == error
    for i, entry, error in ((0, 75, 2), (1, 75, 2), (2, 75, 0), (2, 76, 2), (0, 1 << 30, 2), (0, 74, 0)):
        chosen = case.chosen.clone()
        chosen[i, 3] = entry
        assert call(case, chosen=chosen.data_ptr()) == error, (i, entry)


def test_what_does_not_fit_is_a_value_error() -> None:
    case = make(ratio=4, topk=20)
    past, entries, fresh = ring(case), paged(case), case.tokens[case.first - case.base :]
    good: dict[str, Any] = {
        "q": case.q, "sink": case.sink, "first": case.first, "window": case.window, "past": past, "fresh": fresh,
        "entries": entries, "ratio": 4, "chosen": case.chosen,
    }  # fmt: skip
    assert kernels.attend(**good).isfinite().all()
    for match, change in [
        ("do not fit; expected", {"q": case.q.float()}),
        ("do not fit; expected", {"fresh": fresh.float()}),
        ("do not fit; expected", {"fresh": fresh[1:]}),
        ("do not fit; expected", {"sink": case.sink[1:]}),
        ("cached rows of 96 values", {"past": replace(past, dim=96)}),
        ("2 rows of chosen entries", {"chosen": case.chosen[:2]}),  # type: ignore[index]
        ("rows of torch.float32", {"past": replace(past, storage=past.storage.float())}),
        ("contiguous", {"past": replace(past, storage=past.storage.T.contiguous().T)}),
        ("a block table of torch.int32", {"entries": replace(entries, table=entries.table.int())}),
        ("a size is not positive", {"first": -1}),
        ("a size is not positive", {"window": 0}),
        ("a size is not positive", {"past": replace(past, storage=past.storage[:126])}),
        ("a size is not positive", {"past": replace(past, table=entries.table)}),
        ("a size is not positive", {"chosen": case.chosen + 60}),  # type: ignore[operator]
        ("a pointer is null", {"q": case.q[:0], "fresh": fresh[:0], "chosen": case.chosen[:0]}),  # type: ignore[index]
        ("another size", {"entries": RowSource("kv", 64, 0, torch.zeros(9, 71, dtype=torch.uint8))}),
        ("a size is not positive", {"entries": RowSource("index", 64, 0, torch.zeros(99, 34, dtype=torch.uint8))}),
    ]:
        with pytest.raises(ValueError, match=match):
            kernels.attend(**{**good, **change})
