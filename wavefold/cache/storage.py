"""The memory of a pool's blocks, and of a state. On a CPU it begins at a page, and pages of 2 MiB are asked for.

Reads past the page cache need memory that begins at a page, and come twice as fast into large pages
(bench/prefix_disk.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.system import huge_memory

LARGE = 2 << 20


def block_storage(num_blocks: int, stride: int, device: torch.device) -> Tensor:
    """Returns uint8 [num_blocks, stride] with undefined content. Less than `LARGE` bytes are usual memory."""
    if device.type != "cpu" or num_blocks * stride < LARGE:
        return torch.empty(num_blocks, stride, dtype=torch.uint8, device=device)
    return torch.frombuffer(huge_memory(num_blocks * stride), dtype=torch.uint8).view(num_blocks, stride)
