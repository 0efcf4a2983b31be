"""A command over several processes: torchrun starts them, each has its share of the routed experts.

torchrun --nproc-per-node 2 -m wavefold run MODEL -p TEXT
torchrun --nnodes 2 --node-rank 0 --master-addr A --master-port P -m wavefold run ...      on the first of two machines
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from wavefold.waves.agreement import num_ranks

if TYPE_CHECKING:
    from wavefold.engine.open import OverRanks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("over several processes (torchrun)")
    group.add_argument("--waves", type=int, metavar="N", help="of a rank's experts (default 8, or fewer)")
    group.add_argument("--wire", choices=("fp8", "bf16", "fp32"),
                       help="what an expert's rows are rounded to (default: as the arithmetic does)")  # fmt: skip
    group.add_argument(
        "--back", choices=("bf16", "fp32"), help="what results travel in (default: the activations' type)"
    )


def over_ranks(args: argparse.Namespace) -> OverRanks | None:
    """How ranks share experts; None for a model on its own.

    A process alone runs as over ranks where waves are asked for, with the same roundings.
    """
    if num_ranks() == 1 and getattr(args, "waves", None) is None:  # a server has no ranks
        return None
    from wavefold.engine.open import OverRanks

    return OverRanks(args.waves, args.wire, args.back)
