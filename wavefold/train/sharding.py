"""A run over several processes: dense parameters in shards (FSDP2), routed experts whole in each process or shared out.

    forward     a block's shards are gathered, quantized, used, and dropped
    backward    gathered again; every process gets the summed gradients of its rows
    optimizer   sees the rows of this process; Muon gathers whole matrices

With one process nothing is sharded and all functions pass tensors through. An expert that is shared out
(`share_experts`) has storage in one process alone. That process gets its whole gradients in the waves
(`wavefold/waves`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from wavefold.experts import routed_expert
from wavefold.experts.ranked import RankedExperts
from wavefold.model import Transformer
from wavefold.model.official import official_tensors
from wavefold.train.objective import Objective
from wavefold.waves.exchange import Settings
from wavefold.waves.group import Group
from wavefold.waves.schedule import Waves
from wavefold.waves.transport import TorchTransport, local_transports
from wavefold.waves.wire import Wire


def is_replicated(name: str, parameter: Tensor) -> bool:
    """True if the parameter is not sharded: routed experts, the few values of the last collapse, and parameters without
    gradient (tables, biases of routers)."""
    return routed_expert(name) is not None or name.startswith("hc_head_") or not parameter.requires_grad


def share_experts(model: Transformer, group: Group, num_waves: int) -> Waves:
    """Keeps the local share of routed experts, and connects the model to the experts of other processes.

    Raises ValueError for more processes or waves than there are experts for.
    """
    waves = Waves(model.config.n_routed_experts, group.size, num_waves)
    store = model.experts.store
    for expert in range(waves.num_experts):
        if waves.rank_of(expert) != group.rank:
            for layer in range(store.table.num_layers):
                store.put(layer, expert, store.stored(layer, expert).map(_elsewhere))
    wire: Wire = "bf16" if model.arithmetic.dtype == torch.bfloat16 else "fp32"
    settings = Settings(waves, wire, wire)  # type: ignore[arg-type]
    transport = TorchTransport() if group.size > 1 else local_transports(1)[0]
    model.experts = RankedExperts(model.experts, transport, settings, same_rows=False)
    return waves


def _elsewhere(parameter: Tensor) -> nn.Parameter:
    """Returns a placeholder for a parameter of another process."""
    return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)


def _has_values(grad: Tensor) -> bool:
    """True if a gradient has a value other than zero. Most have one in their first row."""
    return bool(grad[:1].any()) or bool(grad.any())


class Shards:
    """The local shards of the parameters of an objective."""

    def __init__(self, objective: Objective, group: Group, waves: Waves | None = None):
        """`waves`: the result of `share_experts`, if experts are shared out."""
        self.group, self._waves = group, waves
        model = objective.model
        replicated = {p for name, p in model.named_parameters() if is_replicated(name, p)}
        if group.size > 1:
            for block in [*objective.blocks, *objective.mtp]:
                fully_shard(block, mesh=group.mesh, ignored_params=replicated)
            fully_shard(objective, mesh=group.mesh, ignored_params=replicated)
            for module in objective.modules():
                if isinstance(module, FSDPModule):  # gradients of shares of one mean loss add up
                    module.set_gradient_divide_factor(1.0)
                    module.set_force_sum_reduction_for_comms(True)
                    module.set_reduce_scatter_unused_params(True)  # a share of short sequences uses no compressor
        self._parameters = dict(official_tensors(model))
        trained = {name: p for name, p in self._parameters.items() if p.requires_grad and not p.is_meta}
        self.trained: dict[str, Tensor] = {
            name: nn.Parameter(p.to_local().detach()) if isinstance(p, DTensor) else p for name, p in trained.items()
        }
        """Parameters for the optimizer, by name: the local rows."""
        self._names = {id(parameter): name for name, parameter in self.trained.items()}

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Sets the gradient of each trained parameter to that of the whole batch, or None if no process has one.

        A gradient of zeros counts as None, so no optimizer moves an expert that no token chose.
        """
        grads: dict[str, Tensor] = {}
        for name, share in self.trained.items():
            grad = self._parameters[name].grad
            if self._is_shared_out(name):
                share.grad = grad if grad is not None and _has_values(grad) else None
                continue
            if grad is None:
                grad = torch.zeros_like(share) if self.group.size > 1 else None
            if grad is not None:
                grads[name] = grad.to_local() if isinstance(grad, DTensor) else grad
        self.group.sum_([grad for name, grad in grads.items() if not self._is_sharded(name)])
        norms = self.group.largest([float(_has_values(grad)) for grad in grads.values()])
        for name in grads:
            self.trained[name].grad = None
        for (name, grad), any_ in zip(grads.items(), norms, strict=True):
            self.trained[name].grad = grad if any_ else None

    def drop_gradients(self) -> None:
        for name, share in self.trained.items():
            share.grad = self._parameters[name].grad = None

    @torch.no_grad()
    def clip_(self, largest: float) -> float:
        """Scales the gradients so that their total norm is at most `largest`. Returns the norm before.

        The norm is the same in all processes. Gradients stay as they are if it is not finite.
        """
        grads: tuple[list[Tensor], list[Tensor]] = [], []
        for name, share in self.trained.items():
            if share.grad is not None:
                grads[self._is_sharded(name) or self._is_shared_out(name)].append(share.grad)
        here, sharded = (float(torch.nn.utils.get_total_norm(norms)) ** 2 for norms in grads)
        norm = (here + self.group.sums([sharded])[0]) ** 0.5
        if largest < norm < math.inf:
            torch._foreach_mul_([*grads[0], *grads[1]], largest / norm)
        return norm

    def whole(self, parameter: Tensor, rows: Tensor) -> Tensor:
        """Gathers a tensor of the shape of `parameter` from the `rows` of each process. All processes call it."""
        sharded = self._parameters[self._names[id(parameter)]]
        return self.as_sharded(sharded, rows).full_tensor() if isinstance(sharded, DTensor) else rows

    def share(self, parameter: Tensor, whole: Tensor) -> Tensor:
        """Returns the local rows of a whole tensor."""
        sharded = self._parameters[self._names[id(parameter)]]
        if not isinstance(sharded, DTensor):
            return whole
        chunk = -(-len(whole) // self.group.size)  # FSDP2 cuts the rows as torch.chunk does
        return whole[self.group.rank * chunk :][:chunk]

    def named(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Converts ("{parameter}.{moment}", tensor) pairs for a distributed checkpoint. Rows become DTensors."""
        out: dict[str, Tensor] = {}
        for name, rows in tensors:
            sharded = self._parameters[name.rpartition(".")[0]]
            like = isinstance(sharded, DTensor) and rows.shape == sharded.to_local().shape and rows.dim() > 0
            out[name] = self.as_sharded(sharded, rows) if like else rows  # type: ignore[arg-type]
        return out

    def parameters(self) -> dict[str, Tensor]:
        """Returns all parameters with local storage, by name. Sharded ones are DTensors."""
        return {name: p.detach() for name, p in self._parameters.items() if not p.is_meta}

    def gathered(self) -> dict[str, Tensor]:
        """Returns all whole parameters by name. All processes call it."""
        whole: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            p = parameter.detach()
            if self._is_shared_out(name):
                p = torch.empty_like(p, device=self.group.device) if p.is_meta else p
                dist.broadcast(p, self._waves.rank_of(routed_expert(name)))  # type: ignore[union-attr, arg-type]
            whole[name] = p.full_tensor() if isinstance(p, DTensor) else p
        return whole

    @staticmethod
    def as_sharded(like: DTensor, rows: Tensor) -> DTensor:
        """Returns `rows` as the local shard of a DTensor that is sharded as `like`."""
        return DTensor.from_local(
            rows, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    def _is_sharded(self, name: str) -> bool:
        return isinstance(self._parameters[name], DTensor)

    def _is_shared_out(self, name: str) -> bool:
        """True if exactly one process has the parameter, which may be another."""
        return self._waves is not None and self.group.size > 1 and routed_expert(name) is not None
