"""The fit of a set of tensors to a model: names, shapes and dtypes, checked together and reported in one error.

names -> kinds (dtype, shape)  --Fit-->  the tensor of each parameter, those of the routed experts, the others
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wavefold.checkpoint.unneeded import by_kind
from wavefold.experts.table import MATRICES, PARTS
from wavefold.model import Transformer
from wavefold.model.official import routed_before
from wavefold.model.parameters import Linear
from wavefold.quant.format import SCALE_DTYPE, STORED_DTYPES, Format, format_of

MAX_LISTED = 8
FLOATS = (torch.bfloat16, torch.float32)
GGUF_DTYPES = (*FLOATS, torch.float16, torch.uint8)
"""The dtypes of numbers in GGUF files."""


class Kind(NamedTuple):
    """The dtype and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    packed: Format | None = None
    """The format of blocks that the tensor is, of a GGUF file."""
    is_gguf: bool = False

    @property
    def form(self) -> Format:
        return self.packed or format_of(self.dtype)

    def values_shape(self) -> tuple[int, ...]:
        """Returns the shape of the values."""
        return (*self.shape[:-1], self.packed.num_columns(self.shape[-1])) if self.packed else self.shape

    def __str__(self) -> str:
        if self.packed is not None:
            return f"{list(self.values_shape())} {self.packed.name}"
        return f"{list(self.shape)} {_names((self.dtype,))}"


class Take(NamedTuple):
    """A module's parameter, and the name of the tensor that it takes (None: it loses its tensor)."""

    module: nn.Module
    parameter: str
    name: str | None
    kind: Kind | None = None


class Fit:
    """The way tensors of these kinds become a model's. Nothing is changed, and nothing is read."""

    def __init__(self, model: Transformer, kinds: Mapping[str, Kind], experts: Container[int] | None, strict: bool):
        """`experts`: only these routed experts (None: all). `strict`: no tensor may be left over."""
        self.problems = Problems()
        self.takes: list[Take] = []
        self.tables: list[str] = []
        """Tables of experts by token, whose content is to be checked."""
        self._kinds, self._experts, self._store_table = kinds, experts, model.experts.store.table
        self._taken: set[str] = set()
        for prefix, module in model.named_modules():
            dot = f"{prefix}." if prefix else ""
            if (layer := routed_before(model, prefix)) is not None:
                self._check_experts(layer)
            if isinstance(module, Linear):
                self._check_linear(module, dot)
            else:
                self._check_plain(module, dot)
        self.left = [name for name in kinds if name not in self._taken]
        self.problems.unexpected += sorted(self.left) if strict else by_kind(self.left, model.config)[1]

    def _pop(self, name: str) -> Kind | None:
        self._taken.add(name)
        return self._kinds.get(name)

    def _check_plain(self, module: nn.Module, dot: str) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            kind = self._pop(dot + name)
            if kind is None:
                self.problems.missing.append(dot + name)
                continue
            allowed: tuple[torch.dtype, ...] = (
                FLOATS if parameter.dtype.is_floating_point else (torch.int64, torch.int32)
            )
            if kind.is_gguf and allowed is FLOATS:
                allowed = GGUF_DTYPES
            if kind.values_shape() != tuple(parameter.shape) or kind.dtype not in allowed:
                self.problems.wrong.append(f"{dot}{name} is {kind}, expected {list(parameter.shape)} {_names(allowed)}")
            elif name == "tid2eid":
                self.tables.append(dot + name)
            self.takes.append(Take(module, name, dot + name, kind))

    def _check_linear(self, module: Linear, dot: str) -> None:
        weight, scale = self._pop(f"{dot}weight"), self._pop(f"{dot}scale")
        self.problems.add(dot, matrix_problems(module.out_features, module.in_features, weight, scale))
        self.takes.append(Take(module, "weight", f"{dot}weight", weight))
        self.takes.append(Take(module, "scale", None if scale is None else f"{dot}scale"))

    def _check_experts(self, layer: int) -> None:
        table = self._store_table
        names = table.names(layer)
        kinds = list(map(self._kinds.get, names))
        self._taken.update(names)
        if self._all_fit(kinds):
            return
        matrices = zip(names[::2], kinds[::2], kinds[1::2], strict=True)
        for place, (name, weight, scale) in enumerate(matrices):
            expert, matrix = divmod(place, len(MATRICES))
            if self._experts is not None and expert not in self._experts:
                continue
            if found := matrix_problems(*table.sizes[matrix], weight, scale):
                self.problems.add(name.removesuffix("weight"), found)

    def _all_fit(self, kinds: Sequence[Kind | None]) -> bool:
        """True if every expert's matrices are of the same kinds, and those fit. `kinds`: as `ExpertTable.names`."""
        table, step = self._store_table, len(MATRICES) * len(PARTS)
        return all(kinds[place::step].count(kinds[place]) == table.num_experts for place in range(step)) and not any(
            matrix_problems(*size, *kinds[2 * matrix : 2 * matrix + 2]) for matrix, size in enumerate(table.sizes)
        )


@lru_cache(1024)
def matrix_problems(rows: int, columns: int, weight: Kind | None, scale: Kind | None) -> tuple[tuple[str, str], ...]:
    """The problems of a matrix [rows, columns]: (list of `Problems`, text that follows its name and dot)."""
    if weight is None:
        return (("missing", "weight"),)
    if weight.dtype not in (GGUF_DTYPES if weight.is_gguf else STORED_DTYPES):
        return (("wrong", f"weight is {weight}, expected dtype {_names(STORED_DTYPES)}"),)
    form = weight.form
    found: list[tuple[str, str]] = []
    if weight.packed is not None and weight.values_shape() != (rows, columns):
        found.append(("wrong", f"weight is {weight}, expected {[rows, columns]}"))
    elif weight.shape != (shape := form.codes_shape(rows, columns)):
        found.append(("wrong", f"weight is {weight}, expected {list(shape)}"))
    scale_shape = form.scales_shape(rows, columns)
    if scale_shape is None and scale is not None:
        found.append(("unexpected", f"scale (its weight is {weight.dtype}, which has none)"))
    elif scale_shape is not None and scale is None:
        found.append(("missing", f"scale (its weight is {weight.dtype})"))
    elif scale is not None and scale[:2] != (SCALE_DTYPE, scale_shape):
        found.append(("wrong", f"scale is {scale}, expected {list(scale_shape or ())} float8_e8m0fnu"))
    return tuple(found)


class Problems:
    """All differences between a model and a set of tensors, by kind."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.wrong: list[str] = []

    def add(self, dot: str, found: tuple[tuple[str, str], ...]) -> None:
        """Problems of the matrix whose name, with its dot, is `dot`."""
        for kind, text in found:
            getattr(self, kind).append(dot + text)

    def check_table(self, name: str, table: Tensor, num_experts: int) -> None:
        """Add a problem unless a table of experts by token has numbers of experts alone."""
        low, high = int(table.numpy().min()), int(table.numpy().max())
        if not 0 <= low <= high < num_experts:
            self.wrong.append(f"{name} has experts {low} to {high}, expected 0 to {num_experts - 1}")

    def raise_if_any(self) -> None:
        parts = []
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("mis-shaped", self.wrong),
        ):
            if names:
                more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
                parts.append(f"{len(names)} {title}: {'; '.join(names[:MAX_LISTED])}{more}")
        if parts:
            raise ValueError("the tensors do not fit the configuration\n  " + "\n  ".join(parts))


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
