"""Where a model's parameters lie: the kernels know addresses, and a parameter may be replaced or moved at any time."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

if TYPE_CHECKING:
    from wavefold.model.transformer import Transformer

Slots = tuple[list[dict[str, Tensor]], list[str]]
"""Modules' dicts of parameters, and names in them."""

_num_registered = 0


def _count_registered(*_: object) -> None:
    global _num_registered
    _num_registered += 1


register_module_parameter_registration_hook(_count_registered)
register_module_module_registration_hook(_count_registered)


def num_registered() -> int:
    """Parameters and modules that any module has registered so far: after more of them, slots are looked up again."""
    return _num_registered


def slots_of(model: Transformer) -> Slots:
    """Returns the slots of the parameters outside routed experts."""
    parts: list[nn.Module] = [model.embed, *model.blocks, model.norm, model.head]
    modules = [model, *(module for part in parts for module in part.modules())]
    slots = [
        (module._parameters, name)
        for module in modules
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]
    return [parameters for parameters, _ in slots], [name for _, name in slots]  # type: ignore[misc]


def same_slots(slots: Slots, others: Slots) -> bool:
    """True if both name the same places: dicts are compared by identity."""
    return slots[1] == others[1] and all(map(operator.is_, slots[0], others[0]))


def addresses_of(slots: Slots) -> list[int]:
    """Returns the addresses in the slots. It uses `map`, since every token asks for all of them."""
    return list(map(Tensor.data_ptr, map(operator.getitem, *slots)))
