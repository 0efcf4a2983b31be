"""Muon's orthogonal matrices, one to a thread."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.ops.native.library import check, require, runtime

MOST_NUMBERS = 1 << 19
"""Largest matrix that a thread's cache holds beside its products."""


class OrthogonalStruct(ctypes.Structure):
    """wf_orthogonal."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("momentum", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("keep", ctypes.c_float),
        ("rate", ctypes.c_float),
    )


Coefficients = Sequence[tuple[float, float, float]]
"""a, b, c of each step."""


class MuonUpdate(NamedTuple):
    """values <- keep values - rate o, of o orthogonal to mu momentum + grad, once momentum is mu momentum + grad."""

    values: Tensor
    momentum: Tensor
    grad: Tensor
    keep: float
    rate: float

    @property
    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.momentum, self.grad


def takes(*matrices: Tensor) -> bool:
    """True if the kernels take these matrices of one shape: float32 on the CPU, contiguous, MOST_NUMBERS at most."""
    return all(
        matrix.dim() == 2
        and matrix.dtype == torch.float32
        and matrix.is_cpu
        and matrix.is_contiguous()
        and 0 < matrix.numel() <= MOST_NUMBERS
        and matrix.shape == matrices[0].shape
        for matrix in matrices
    )


def orthogonalize_(matrices: Sequence[Tensor], coefficients: Coefficients) -> None:
    """Replaces float32 matrices by the nearest (semi-)orthogonal ones, with products in bfloat16.

    Raises ValueError for a matrix that `takes` refuses.
    """
    _check(matrices)
    _run([OrthogonalStruct(m.data_ptr(), None, None, *m.shape, 0.0, 0.0) for m in matrices], coefficients, 0.0)


def muon_(updates: Sequence[MuonUpdate], coefficients: Coefficients, mu: float) -> None:
    """Makes the updates. Raises ValueError for matrices that `takes` refuses."""
    for update in updates:
        _check(update.matrices, together=True)
    _run(
        [
            OrthogonalStruct(*(m.data_ptr() for m in update.matrices), *update.values.shape, update.keep, update.rate)
            for update in updates
        ],
        coefficients, mu,
    )  # fmt: skip


def _check(matrices: Sequence[Tensor], together: bool = False) -> None:
    if not (takes(*matrices) if together else all(takes(matrix) for matrix in matrices)):
        shapes = ", ".join(f"{list(matrix.shape)} of {matrix.dtype}" for matrix in matrices)
        raise ValueError(
            f"matrices {shapes} are not allowed; expected contiguous float32, {MOST_NUMBERS} values at most"
        )


def _run(structs: list[OrthogonalStruct], coefficients: Coefficients, mu: float) -> None:
    if structs:
        steps = torch.tensor(coefficients, dtype=torch.float32)
        array = (OrthogonalStruct * len(structs))(*structs)
        check(require().wf_orthogonalize(runtime(), array, len(structs), steps.data_ptr(), len(steps), mu))
