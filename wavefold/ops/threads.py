"""torch's CPU threads, which are the process's. A runtime without a number of its own follows them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from wavefold.ops.native import library


def use_threads(threads: int | None, folder: Path | None = None) -> None:
    """Set torch's number of threads for this process. Raises ValueError below 1.

    None leaves it, unless it is the number of processors and some cores have two of them: then it becomes the number of
    cores. OMP_NUM_THREADS is left alone. `folder` says which processors belong to one core (`library.by_core`).
    """
    if threads is None:
        threads = _cores(folder)
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads = {threads} is not allowed; expected 1 or more")
    torch.set_num_threads(threads)


def _cores(folder: Path | None) -> int | None:
    """Returns the number of cores where torch would use more threads and nobody chose so, else None."""
    if "OMP_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity") or not library.available():
        return None
    processors = sorted(os.sched_getaffinity(0))
    if torch.get_num_threads() != len(processors):
        return None
    _, cores = library.by_core(processors, folder)
    return cores if cores < len(processors) else None
