"""A command over several processes: torchrun starts them, each has its share of the routed experts.

torchrun --nproc-per-node 2 -m wavefold run MODEL -p TEXT
torchrun --nnodes 2 --node-rank 0 --master-addr A --master-port P -m wavefold run ...      on the first of two machines
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavefold.model import Transformer
    from wavefold.parallel.wire import Wire

DEFAULT_WAVES = 8


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


def load_over_ranks(folder: Path, args: argparse.Namespace) -> Transformer:
    """The model with this process's experts alone, the others' at hand. Raises ValueError where processes differ."""
    import torch
    import torch.distributed as dist

    from wavefold.checkpoint import load
    from wavefold.config import ModelConfig
    from wavefold.model.ranked_experts import RankedExperts
    from wavefold.parallel.exchange import Settings
    from wavefold.parallel.group import Group
    from wavefold.parallel.transport import TorchTransport
    from wavefold.parallel.waves import Waves

    config = ModelConfig.from_file(folder)
    if num_ranks() == 1 and not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    group = Group()
    base = Waves(config.n_routed_experts, group.size)
    waves = Waves(config.n_routed_experts, group.size, args.waves or min(DEFAULT_WAVES, base.most_waves))
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    model = load(folder, args.arithmetic, dtype, experts=waves.experts_of(group.rank))
    narrow = model.arithmetic.dtype == torch.bfloat16
    wire: Wire = args.wire or ("fp8" if model.arithmetic.released else "bf16" if narrow else "fp32")
    settings = Settings(waves, wire, args.back or ("bf16" if narrow else "fp32"))
    check_alike(f"{settings} {config} {model.arithmetic}")
    model.experts = RankedExperts(model.store, TorchTransport(), settings, same_rows=True)
    return model


def check_alike(facts: str) -> None:
    """Raises ValueError unless all processes will compute the same bits: they take each other's routing for granted."""
    import torch
    import torch.distributed as dist

    from wavefold import __version__
    from wavefold.ops import native

    mine = (facts, __version__, torch.__version__, native.isa() if native.available() else "reference")
    all_facts: list[tuple[str, ...]] = [()] * dist.get_world_size()
    dist.all_gather_object(all_facts, mine)
    for rank, theirs in enumerate(all_facts):
        if theirs != mine:
            other = next((b, a) for a, b in zip(mine, theirs, strict=True) if a != b)
            raise ValueError(f"rank {rank} has {other[0]}, this one {other[1]}; expected the same on all machines")
