"""The processes of a run: each takes its share of every batch, gradients are summed, all move alike.

    torchrun --nproc-per-node 2 -m wavefold train ...        gloo; one process is a group of its own

Sums are over ranks in a fixed order: a run of the same number of processes gives the same numbers again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Group:
    """`rank` of `size` processes. Made once, at the start of the program."""

    def __init__(self) -> None:
        """Joins the processes that torchrun started; alone where it started none."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        total = torch.tensor(values, dtype=torch.float64)
        self.sum_([total])
        return total.tolist()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """The end of the run."""
        if self.size > 1:
            dist.destroy_process_group()
