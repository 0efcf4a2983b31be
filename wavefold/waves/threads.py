"""CPU threads of this process."""

from __future__ import annotations


def use_threads(threads: int | None) -> None:
    """Sets the number of compute threads. None keeps the default of torch. Raises ValueError below 1."""
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads = {threads} is not allowed; expected 1 or more")
    torch.set_num_threads(threads)
