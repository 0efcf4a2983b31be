"""Room for a checkpoint: address space for its mapped files, memory for a copy in huge pages or on a device."""

from __future__ import annotations

from pathlib import Path

import torch

from wavefold.system import check_huge_pages, check_memory


def check_load(folder: Path, num_bytes: int, device: torch.device) -> None:
    """Raises ValueError where the weights of `folder`, `num_bytes` in all, cannot be mapped or copied to `device`.

    On the CPU the files stay mapped: they take address space, and memory only as page cache, which can be dropped.
    """
    check_memory(0, f"{folder}: mapping its files", "a larger limit (ulimit -v, ulimit -d)", mapped_bytes=num_bytes)
    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    if num_bytes > free:
        raise ValueError(
            f"{folder}: its weights take {num_bytes / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB of the {total / 1e9:,.2f} "
            f"GB of {device} are free; expected a smaller model, or --device cpu"
        )


def check_copy(folder: Path, num_bytes: int, device: torch.device) -> None:
    """Raises ValueError where `num_bytes` of weights cannot be copied into huge pages: no such pages, no room."""
    if device.type != "cpu":
        raise ValueError(f"huge_pages = True is not allowed with device = {device}; expected cpu, or False")
    check_huge_pages()
    check_memory(
        num_bytes, f"{folder}: a copy of its weights in huge pages", "huge_pages = False, which maps the files"
    )
