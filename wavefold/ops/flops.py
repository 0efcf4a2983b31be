"""Floating-point operations: each op states its number, a counter sums them.

    @counted("norm", lambda x, *_: 4 * x.numel())        the statement of an op, from its arguments
    with counting() as counter: model(...)               {(part, precision): operations}
    with part("window"): ...                               attention inside is counted as this part

A multiply-add is two operations; a comparison, an exponential and a division are one each. Only shapes are read, so
that a model on the meta device can be counted.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from wavefold import quant

P = ParamSpec("P")
R = TypeVar("R")

COUNTED: set[str] = set()
"""Names of the ops that state their operations."""


class FlopCounter(Counter[tuple[str, str]]):
    """Operations by part ("linear", "index", "norm", ...) and, for linears, the precision of the weight."""

    def of(self, part: str) -> int:
        """Returns the operations of a part in all precisions."""
        return sum(count for (name, _), count in self.items() if name == part)


_active: ContextVar[FlopCounter | None] = ContextVar("flop counter", default=None)
_part: ContextVar[str | None] = ContextVar("part of attention", default=None)


@contextmanager
def counting() -> Iterator[FlopCounter]:
    """Counts the operations of this thread inside the block. A thread can be in one block at a time."""
    if _active.get() is not None:
        raise RuntimeError("operations are being counted already; expected one counting() block at a time")
    counter = FlopCounter()
    token = _active.set(counter)
    try:
        yield counter
    finally:
        _active.reset(token)


def is_counting() -> bool:
    """True inside a counting() block of this thread."""
    return _active.get() is not None


@contextmanager
def part(name: str) -> Iterator[None]:
    """Enters operations that ops inside the block state as "attention" under `name`."""
    token = _part.set(name)
    try:
        yield
    finally:
        _part.reset(token)


def count(name: str, operations: int, precision: str = "") -> None:
    """Enters operations if this thread counts."""
    if (counter := _active.get()) is not None:
        entered = _part.get() if name == "attention" else None
        counter[entered or name, precision] += operations


def counted(name: str, formula: Callable[..., int]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates an op that does formula(*arguments) operations, entered under `name`."""

    def decorate(op: Callable[P, R]) -> Callable[P, R]:
        COUNTED.add(op.__name__)

        @functools.wraps(op)
        def op_counted(*args: P.args, **kwargs: P.kwargs) -> R:
            if is_counting():
                count(name, formula(*args, **kwargs))
            return op(*args, **kwargs)

        return op_counted

    return decorate


def count_linear(x: Tensor, weight: Tensor, groups: int = 1, packed: quant.Format | None = None) -> None:
    """Enters x [..., in] times weight [out, in]: 2 * in * out / groups operations for each row.

    `packed`: the format of the blocks that the weight is in, if it is.
    """
    if is_counting():
        rows, form = x.numel() // x.shape[-1], (packed or quant.format_of(weight.dtype)).name
        count("linear", 2 * rows * weight.shape[0] * (x.shape[-1] // groups), form)


def values(x: Any, times: int = 1) -> int:
    """Returns `times` operations for each value of x."""
    return times * int(x.numel())
