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
"""How long a process waits for the others to start."""
SHOWN = 60
"""Characters of a value in an error."""


def num_ranks() -> int:
    """The number of processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """True in the process that talks."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within the block this process is one of those that torchrun started. Raises ValueError where they do not meet."""
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
    """All ranks know that they cannot run together."""


def agreed(prepare: Callable[[], tuple[Result, dict[str, object]]]) -> Result:
    """The result of `prepare`, once every rank has one and the named values beside it are the same on all.

    An error of `prepare` is raised on its rank and, as a Disagreement that tells of it, on all the others. So is a
    difference: a Disagreement that names the value, both forms of it and both ranks. One process agrees with itself.
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
    """Run `make` in the first process alone; all go on once it is done. Its error is raised in all of them."""
    agreed(lambda: (make() if is_first() else None, {}))


def check_alike(values: dict[str, object]) -> None:
    """Raises Disagreement, on every rank, where a rank has failed or has a value that differs from rank 0's.

    The value named "weights" is a digest for each tensor: only tensors that both ranks have are compared.
    """
    answers = _exchange(values)
    for rank, answer in enumerate(answers):
        if isinstance(answer, str):
            raise Disagreement(f"rank {rank} failed before the start: {answer}")
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
    """The first name, in alphabetical order, under which both have a digest and not the same; None if there is none."""
    return next((name for name in sorted(a.keys() & b.keys()) if a[name] != b[name]), None)


def _exchange(values: Any) -> list[Any]:
    """The values of every rank, rank 0's first. Raises RankLost where one is gone without a word."""
    import torch.distributed as dist

    from wavefold.waves.transport import RankLost  # imports torch

    everyone: list[Any] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(everyone, values)
    except RuntimeError:
        raise RankLost("another rank was lost before the start; expected the cause in its own output") from None
    with contextlib.suppress(RuntimeError):  # none leaves before all have read; then it may
        dist.barrier()
    return everyone


def _shortened(a: str, b: str) -> tuple[str, str]:
    """Both texts around the first place where they differ."""
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    begin = max(0, at - SHOWN // 2)

    def part(text: str) -> str:
        return ("..." if begin else "") + text[begin : begin + SHOWN] + ("..." if len(text) > begin + SHOWN else "")

    return part(a), part(b)
