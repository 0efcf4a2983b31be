"""The processes that torchrun started: they meet, and agree on what decides their numbers before they compute.

torch is imported when processes meet: the command line asks for their number without it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

Result = TypeVar("Result")

JOIN_S = 120
"""Seconds that a process waits for the others to start."""
SHOWN = 60
"""Characters of a value in an error."""


def num_ranks() -> int:
    """The number of processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank_here() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def num_ranks_here() -> int:
    """The number of processes that torchrun started on this machine, which share its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    """True in the process that writes to the terminal."""
    return rank_here() == 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that torchrun started, for the block. Raises ValueError if they do not meet."""
    import torch.distributed as dist

    limit = timedelta(seconds=JOIN_S)
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=limit))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    except (dist.DistError, RuntimeError) as error:
        raise ValueError(
            f"rank {os.environ.get('RANK')} of {num_ranks()} did not meet the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} within {JOIN_S} s "
            f"({str(error).splitlines()[0]})"
        ) from None
    try:
        yield
    finally:
        dist.destroy_process_group()


class Disagreement(ValueError):
    """The ranks cannot run together, and every rank knows it."""


def agreed(prepare: Callable[[], tuple[Result, dict[str, object]]]) -> Result:
    """Returns the result of `prepare` once every rank has one and its named values are the same on all ranks.

    An error of `prepare` is raised on its own rank; the other ranks raise a Disagreement that quotes it. Values that
    differ raise a Disagreement on all ranks; it names the value, its two forms and the two ranks. A single process
    compares nothing.
    """
    if num_ranks() == 1:
        return prepare()[0]
    try:
        result, values = prepare()
    except Disagreement:  # the others know of it
        raise
    except Exception as error:
        _exchange(str(error) or type(error).__name__)
        raise
    check_alike(values)
    return result


def by_first(make: Callable[[], object]) -> None:
    """Runs `make` in the first process; the others wait for it. An error is raised in all processes."""
    agreed(lambda: (make() if is_first() else None, {}))


def of_all(values: Mapping[str, Any]) -> list[Any]:
    """Returns the values of all ranks, by rank. Raises Disagreement on every rank if one has failed in `agreed`."""
    if num_ranks() == 1:
        return [values]
    answers = _exchange(values)
    for rank, answer in enumerate(answers):
        if isinstance(answer, str):
            raise Disagreement(f"rank {rank} failed before the start: {answer}")
    return answers


def check_alike(values: dict[str, object]) -> None:
    """Raises Disagreement on every rank if one has failed or has a value that differs from that of rank 0.

    The value named "weights" holds a digest for each tensor. Only tensors that both ranks have are compared.
    """
    answers = of_all(values)
    first = answers[0]
    for rank, answer in enumerate(answers):
        for name in first:
            if name == "weights":
                _check_weights(rank, first[name], answer[name])
            elif answer[name] != first[name]:
                zero, other = _shortened(str(first[name]), str(answer[name]))
                raise Disagreement(
                    f"{name} differs: rank 0 has {zero}, rank {rank} has {other}; expected the same on all ranks"
                )


def _check_weights(rank: int, first: Mapping[str, str], other: Mapping[str, str]) -> None:
    if name := first_difference(first, other):
        raise Disagreement(
            f"weights differ: {name} has the digest {first[name][:12]} on rank 0, {other[name][:12]} on rank {rank}; "
            "expected the same checkpoint on all ranks"
        )


def first_difference(a: Mapping[str, str], b: Mapping[str, str]) -> str | None:
    """Returns the first name, in alphabetical order, whose digests in `a` and `b` differ, or None."""
    return next((name for name in sorted(a.keys() & b.keys()) if a[name] != b[name]), None)


def _exchange(values: Any) -> list[Any]:
    """Returns the values of all ranks in rank order. Raises RankLost if a rank ended without an answer."""
    import torch.distributed as dist

    from wavefold.waves.transport import RankLost  # imports torch

    everyone: list[Any] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(everyone, values)
    except RuntimeError:
        raise RankLost("another rank was lost before the start; expected the cause in its own output") from None
    with contextlib.suppress(RuntimeError):  # no process leaves before all have read
        dist.barrier()
    return everyone


def _shortened(a: str, b: str) -> tuple[str, str]:
    """Returns both texts, cut to `SHOWN` characters around their first difference."""
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    begin = max(0, at - SHOWN // 2)

    def part(text: str) -> str:
        return ("..." if begin else "") + text[begin : begin + SHOWN] + ("..." if len(text) > begin + SHOWN else "")

    return part(a), part(b)
