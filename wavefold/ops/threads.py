"""torch's CPU threads, which are the process's. A runtime without a number of its own follows them."""

from __future__ import annotations

import torch


def use_threads(threads: int | None) -> None:
    """Set torch's number of threads for this process. None leaves it. Raises ValueError below 1."""
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads = {threads} is not allowed; expected 1 or more")
    torch.set_num_threads(threads)
