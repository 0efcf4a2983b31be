"""The processes of a run: each takes its share of every batch, gradients are summed, all make the same update.

    torchrun --nproc-per-node 2 -m wavefold train ...     gloo on CPUs, NCCL on GPUs; one process is a group of its own

Sums go over ranks in a fixed order, so a run with the same number of processes gives the same numbers.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


class Group:
    """Process `rank` of `size`. Constructed once, at the start of the program."""

    def __init__(self) -> None:
        """Joins the processes that torchrun started. Without torchrun the group has one process."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("nccl" if cuda else "gloo")
            leave_at_exit()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.device = torch.device("cuda", torch.cuda.current_device()) if _on_cuda() else torch.device("cpu")
        self.mesh: DeviceMesh | None = init_device_mesh(self.device.type, (self.size,)) if self.size > 1 else None

    @property
    def first(self) -> bool:
        """True in the process that writes files and prints."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def sums(self, values: Sequence[float]) -> list[float]:
        """Returns the sums over all processes, in float64."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        self.sum_([total])
        return total.tolist()

    def largest(self, values: Sequence[float]) -> list[float]:
        """Returns the maximum of each value over all processes."""
        most = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(most, dist.ReduceOp.MAX)
        return most.tolist()

    def least(self, value: float) -> float:
        """Returns the minimum over all processes."""
        return -self.largest([-value])[0]

    def wait(self) -> None:
        """Blocks until all processes have called it."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Leaves the group at the end of the run."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()


def leave_at_exit() -> None:
    """Leaves the group when the process ends, whatever ends it.

    A process that ends inside a gloo group is aborted about once in twenty times (torch 2.13.0).
    """
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


def _on_cuda() -> bool:
    return dist.is_initialized() and dist.get_backend() == "nccl"
