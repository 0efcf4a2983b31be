"""A run over several processes: dense parameters in shards (FSDP2), routed experts whole in each process.

    forward     a block's shards are gathered, quantised, used, and dropped
    backward    gathered again; gradients come back summed, each process its rows
    optimizer   sees this process's rows; Muon asks for whole matrices

With one process nothing is sharded and everything here passes through.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from wavefold.parallel.group import Group
from wavefold.train.objective import Objective


def is_replicated(name: str, parameter: Tensor) -> bool:
    """Whether each process holds this parameter whole: routed experts, the last collapse's few numbers, and what no
    gradient moves (tables, routers' biases)."""
    return ".ffn.experts." in name or name.startswith("hc_head_") or not parameter.requires_grad


class Shards:
    """The parameters of an objective as this process holds them."""

    def __init__(self, objective: Objective, group: Group):
        self.group = group
        model = objective.model
        replicated = {p for name, p in model.named_parameters() if is_replicated(name, p)}
        if group.size > 1:
            for block in [*objective.blocks, *objective.mtp]:
                fully_shard(block, mesh=group.mesh, ignored_params=replicated)
            fully_shard(objective, mesh=group.mesh, ignored_params=replicated)
            for module in objective.modules():
                if isinstance(module, FSDPModule):  # gradients are of shares of one mean loss: they add up
                    module.set_gradient_divide_factor(1.0)
                    module.set_force_sum_reduction_for_comms(True)
                    module.set_reduce_scatter_unused_params(True)  # a share of short sequences uses no compressor
        self._parameters = dict(model.named_parameters())
        trained = {name: p for name, p in self._parameters.items() if p.requires_grad}
        self.trained: dict[str, nn.Parameter] = {
            name: nn.Parameter(p.to_local().detach()) if isinstance(p, DTensor) else p for name, p in trained.items()
        }
        """What the optimizer moves, by name: this process's rows."""
        self._names = {id(parameter): name for name, parameter in self.trained.items()}

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Give each trained parameter the gradient of the whole batch; None to one that nobody has a gradient for.

        A gradient of zeros counts as none: an expert that no token chose is left alone by every optimizer.
        """
        grads: dict[str, Tensor] = {}
        for name, mine in self.trained.items():
            grad = self._parameters[name].grad
            if grad is None:
                grad = torch.zeros_like(mine) if self.group.size > 1 else None
            if grad is not None:
                grads[name] = grad.to_local() if isinstance(grad, DTensor) else grad
        self.group.sum_([grad for name, grad in grads.items() if not self._is_sharded(name)])
        some = self.group.largest([float(grad.any()) for grad in grads.values()])
        for name in self.trained:
            self.trained[name].grad = None
        for (name, grad), any_ in zip(grads.items(), some, strict=True):
            self.trained[name].grad = grad if any_ else None

    def drop_gradients(self) -> None:
        for name, mine in self.trained.items():
            mine.grad = self._parameters[name].grad = None

    @torch.no_grad()
    def clip_(self, largest: float) -> float:
        """Scale the gradients so that their norm together is at most `largest`; returns what it was."""
        grads: tuple[list[Tensor], list[Tensor]] = [], []
        for name, mine in self.trained.items():
            if mine.grad is not None:
                grads[self._is_sharded(name)].append(mine.grad)
        here, sharded = (float(torch.nn.utils.get_total_norm(some)) ** 2 for some in grads)
        norm = (here + self.group.sums([sharded])[0]) ** 0.5
        if norm > largest:
            torch._foreach_mul_([*grads[0], *grads[1]], largest / norm)
        return norm

    def whole(self, parameter: Tensor, rows: Tensor) -> Tensor:
        """The whole of a tensor like a trained parameter, of which this process has `rows`. All processes call it."""
        sharded = self._parameters[self._names[id(parameter)]]
        return self.as_sharded(sharded, rows).full_tensor() if isinstance(sharded, DTensor) else rows

    def mine(self, parameter: Tensor, whole: Tensor) -> Tensor:
        """This process's rows of it."""
        sharded = self._parameters[self._names[id(parameter)]]
        if not isinstance(sharded, DTensor):
            return whole
        chunk = -(-len(whole) // self.group.size)  # FSDP2 cuts the rows as torch.chunk does
        return whole[self.group.rank * chunk :][:chunk]

    def named(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """("{parameter}.{moment}", tensor) as a distributed checkpoint takes them, those of its shape sharded."""
        out: dict[str, Tensor] = {}
        for name, rows in tensors:
            sharded = self._parameters[name.rpartition(".")[0]]
            like = isinstance(sharded, DTensor) and rows.shape == sharded.to_local().shape and rows.dim() > 0
            out[name] = self.as_sharded(sharded, rows) if like else rows  # type: ignore[arg-type]
        return out

    def parameters(self) -> dict[str, Tensor]:
        """All parameters by name, sharded ones as DTensors."""
        return {name: p.detach() for name, p in self._parameters.items()}

    def gathered(self) -> dict[str, Tensor]:
        """All parameters whole, by name. All processes call it."""
        return {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in self.parameters().items()}

    @staticmethod
    def as_sharded(like: DTensor, rows: Tensor) -> DTensor:
        """`rows` as the shard of a tensor cut as `like` is."""
        return DTensor.from_local(
            rows, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    def _is_sharded(self, name: str) -> bool:
        return isinstance(self._parameters[name], DTensor)
