"""Commands in several processes, as torchrun starts them."""

from __future__ import annotations

import os
import sys


def torchrun(processes: int, *words: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs `words` ("-m", a module; or a script) in so many processes of a thread, its environment."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return [*launch, *words], inherited | {"OMP_NUM_THREADS": "1"}
