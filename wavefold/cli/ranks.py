"""A command over several processes: torchrun starts them, each has its share of the routed experts.

torchrun --nproc-per-node 2 -m wavefold run MODEL -p TEXT
torchrun --nnodes 2 --node-rank 0 --master-addr A --master-port P -m wavefold run ...      on the first of two machines
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from wavefold.model import Transformer
    from wavefold.parallel.exchange import Settings
    from wavefold.parallel.wire import Wire

Result = TypeVar("Result")

DEFAULT_WAVES = 8
JOIN_S = 120
"""How long a process waits for the others to start."""
SHOWN = 60
"""Characters of a value in an error."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("over several processes (torchrun)")
    group.add_argument(
        "--waves", type=int, metavar="N", help=f"of a rank's experts (default {DEFAULT_WAVES}, or fewer)"
    )
    group.add_argument("--wire", choices=("fp8", "bf16", "fp32"),
                       help="what an expert's rows are rounded to (default: as the arithmetic does)")  # fmt: skip
    group.add_argument(
        "--back", choices=("bf16", "fp32"), help="what results travel in (default: the activations' type)"
    )


def num_ranks() -> int:
    """Processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_over_ranks(args: argparse.Namespace) -> bool:
    """Whether the model runs as over ranks: one alone does where waves are asked for, with the same roundings."""
    return num_ranks() > 1 or getattr(args, "waves", None) is not None


def is_first() -> bool:
    """Whether this is the process that talks."""
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
    """Raises Disagreement, on every rank, where a rank has failed or another value under a name than rank 0."""
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


def _check_weights(rank: int, first: dict[str, str], other: dict[str, str]) -> None:
    from wavefold.checkpoint.fingerprint import first_difference

    if name := first_difference(first, other):
        raise Disagreement(
            f"weights differ: {name} has the digest {first[name][:12]} on rank 0, {other[name][:12]} on rank {rank}; "
            "expected the same checkpoint on all ranks"
        )


def _exchange(values: Any) -> list[Any]:
    """What every rank gives. Raises RankLost where one is gone without a word."""
    import torch.distributed as dist

    from wavefold.parallel.transport import RankLost

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


def load_over_ranks(folder: Path, args: argparse.Namespace) -> Transformer:
    """The model with this process's experts alone, the others' at hand. Raises ValueError where processes differ."""
    import torch
    import torch.distributed as dist

    from wavefold.checkpoint import load
    from wavefold.config import ModelConfig
    from wavefold.experts.ranked import RankedExperts
    from wavefold.parallel.exchange import Settings
    from wavefold.parallel.group import Group
    from wavefold.parallel.transport import TorchTransport
    from wavefold.parallel.waves import Waves

    if num_ranks() == 1 and not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    group = Group()

    def loaded() -> tuple[tuple[Transformer, Settings], dict[str, object]]:
        config = ModelConfig.from_file(folder)
        base = Waves(config.n_routed_experts, group.size)
        waves = Waves(config.n_routed_experts, group.size, args.waves or min(DEFAULT_WAVES, base.most_waves))
        dtype = None if args.dtype is None else getattr(torch, args.dtype)
        experts = waves.experts_of(group.rank)
        model = load(folder, args.arithmetic, dtype, experts=experts, strict=getattr(args, "strict", False))
        narrow = model.arithmetic.dtype == torch.bfloat16
        wire: Wire = args.wire or ("fp8" if model.arithmetic.released else "bf16" if narrow else "fp32")
        settings = Settings(waves, wire, args.back or ("bf16" if narrow else "fp32"))
        values = {} if group.size == 1 else values_of(model, folder, settings, getattr(args, "batch_invariant", False))
        return (model, settings), values

    model, settings = agreed(loaded)
    model.experts = RankedExperts(model.experts, TorchTransport(), settings, same_rows=True)
    return model


def values_of(model: Transformer, folder: Path, settings: Settings, batch_invariant: bool) -> dict[str, object]:
    """What decides a model's bits. Ranks take each other's routing for granted: all need the same.

    The number of threads is one of them where torch multiplies: its sums are cut by threads. The CPU kernels' are not.
    """
    import torch

    from wavefold import __version__, ops
    from wavefold.checkpoint.fingerprint import fingerprint

    kernels = ops.kernels_run(model.arithmetic.dtype, model.device)
    return {
        **{f"config.{key}": value for key, value in dataclasses.asdict(model.config).items()},
        **{f"settings.{key}": value for key, value in dataclasses.asdict(settings).items()},
        "arithmetic": str(model.arithmetic),
        "wavefold version": __version__,
        "torch version": torch.__version__,
        "torch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "kernels' instruction set": ops.current().isa if kernels else "none: torch computes",
        "batch_invariant": batch_invariant,
        "threads": "any" if kernels else torch.get_num_threads(),
        "weights": fingerprint(folder),
    }
