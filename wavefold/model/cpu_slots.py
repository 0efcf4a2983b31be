"""Where a model's parameters lie: the kernels know addresses, and a parameter may be replaced or moved at any time."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from wavefold.experts import ExpertCompute
from wavefold.ops import Arithmetic

if TYPE_CHECKING:
    from wavefold.model.transformer import Transformer

Slots = tuple[list[dict[str, Tensor]], list[str]]
"""Modules' dicts of parameters, and names in them."""

_num_registered = 0
"""Parameters and modules that any module has registered so far: after more of them, slots are looked up again."""


def _count_registered(*_: object) -> None:
    global _num_registered
    _num_registered += 1


register_module_parameter_registration_hook(_count_registered)
register_module_module_registration_hook(_count_registered)


class Watch:
    """Knows whether a model's parameters around some of its blocks, and its experts, are what and where they were.

    `blocks`: of a model. Routed experts are watched by the generation of their store.
    """

    def __init__(self, blocks: Callable[[Transformer], nn.ModuleList]):
        self._blocks_of = blocks
        self._compute: ExpertCompute | None = None
        self._arithmetic: Arithmetic | None = None
        self._generation = self._num_registered = -1
        self._slots: Slots = [], []
        self._addresses: list[int] = []
        self._blocks: list[nn.Module | None] = []

    def is_current(self, model: Transformer) -> bool:
        """True if nothing has changed since the last `renew`."""
        compute, arithmetic = model.experts, model.arithmetic
        if self._compute is not compute or self._generation != compute.store.generation:
            return False
        if self._arithmetic is not arithmetic and self._arithmetic != arithmetic:
            return False
        if self._blocks != list(self._blocks_of(model)._modules.values()):  # deleting one registers nothing
            return False
        if self._num_registered != _num_registered:  # by any model's modules: only these count
            if not _same_slots(self._slots, self._slots_of(model)):
                return False
            self._num_registered = _num_registered
        return self._addresses == _addresses(self._slots)

    def renew(self, model: Transformer) -> None:
        """Remembers what is where."""
        self._compute, self._arithmetic = model.experts, model.arithmetic
        self._generation, self._num_registered = model.experts.store.generation, _num_registered
        self._slots = self._slots_of(model)
        self._addresses = _addresses(self._slots)
        self._blocks = list(self._blocks_of(model)._modules.values())

    def _slots_of(self, model: Transformer) -> Slots:
        """Returns the slots of the parameters outside routed experts and other blocks."""
        parts: list[nn.Module] = [model.embed, *self._blocks_of(model), model.norm, model.head]
        modules = [model, *(module for part in parts for module in part.modules())]
        slots = [
            (module._parameters, name)
            for module in modules
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        return [parameters for parameters, _ in slots], [name for _, name in slots]  # type: ignore[misc]


def _same_slots(slots: Slots, others: Slots) -> bool:
    """True if both name the same places: dicts are compared by identity."""
    return slots[1] == others[1] and all(map(operator.is_, slots[0], others[0]))


def _addresses(slots: Slots) -> list[int]:
    """Returns the addresses in the slots. It uses `map`, since every token asks for all of them."""
    return list(map(Tensor.data_ptr, map(operator.getitem, *slots)))
