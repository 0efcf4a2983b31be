"""The types of ggml's tensors that are read and written: number, values and bytes of a block.

A row of a matrix is cut into blocks; its length must be a multiple of a block. Source: ggml.h and ggml-common.h.
"""

from __future__ import annotations

from typing import NamedTuple

SUPER = 256
"""Values of a block of the K and IQ formats."""


class GgmlType(NamedTuple):
    """A type of tensors in a GGUF file."""

    name: str
    number: int
    """In the file."""
    block: int
    """Values that are encoded together."""
    block_bytes: int
    file_type: int
    """The number of `general.file_type` for a file whose matrices mostly have this type."""

    @property
    def bits(self) -> float:
        """Bits of a value, scales included."""
        return 8 * self.block_bytes / self.block

    def row_bytes(self, columns: int) -> int:
        """Returns the bytes of a row of this many values. Raises ValueError where blocks do not fill it."""
        if columns % self.block:
            raise ValueError(
                f"rows of {columns} values are not allowed for {self.name}; expected a multiple of {self.block} "
                f"(allowed here: {', '.join(fitting(columns))})"
            )
        return columns // self.block * self.block_bytes


TYPES = {
    form.name: form
    for form in (
        GgmlType("f32", 0, 1, 4, 0),
        GgmlType("f16", 1, 1, 2, 1),
        GgmlType("bf16", 30, 1, 2, 32),
        GgmlType("q8_0", 8, 32, 34, 7),
        GgmlType("q6_k", 14, SUPER, 210, 18),
        GgmlType("q5_k", 13, SUPER, 176, 16),
        GgmlType("q4_k", 12, SUPER, 144, 14),
        GgmlType("mxfp4", 39, 32, 17, 38),
        GgmlType("iq4_xs", 23, SUPER, 136, 30),
        GgmlType("q3_k", 11, SUPER, 110, 11),
        GgmlType("iq3_xxs", 18, SUPER, 98, 23),
        GgmlType("q2_k", 10, SUPER, 84, 10),
        GgmlType("iq2_xs", 17, SUPER, 74, 20),
        GgmlType("iq2_xxs", 16, SUPER, 66, 19),
        GgmlType("i32", 26, 1, 4, 0),
    )
}
"""Types by name, from most bits to fewest."""

BY_NUMBER = {form.number: form for form in TYPES.values()}

MATRIX_TYPES = tuple(name for name in TYPES if name not in ("f32", "i32"))
"""The types that `encode` writes on request."""


def ggml_type(name: str) -> GgmlType:
    """Returns a matrix type by its name. Raises ValueError that lists the names."""
    if name not in MATRIX_TYPES:
        raise ValueError(f"type {name!r} is not allowed; expected one of {', '.join(MATRIX_TYPES)}")
    return TYPES[name]


def fitting(columns: int) -> list[str]:
    """Returns the names of matrix types whose blocks fill rows of this many values."""
    return [name for name in MATRIX_TYPES if columns % TYPES[name].block == 0]
