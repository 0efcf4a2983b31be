"""Adapters as the library takes them: what is added beside the matrices of each layer."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_int32, _int64, _float, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p

FORMS = {torch.bfloat16: 2, torch.float32: 3}
"""WF_BF16 and WF_FP32."""
MOST_RANK = 512


class LowRankStruct(ctypes.Structure):
    """wf_low_rank. Rank 0: nothing is added."""

    _fields_ = (
        ("form", _int32), ("rank", _int64), ("scale", _float), ("down", _pointer), ("up", _pointer),
        ("down_bytes", _int64), ("up_bytes", _int64),
    )  # fmt: skip


class AdapterStruct(ctypes.Structure):
    """wf_adapter: an adapter in one layer."""

    _fields_ = (
        *((name, LowRankStruct) for name in ("wq_a", "wq_b", "wkv", "wo_b", "w1", "w2", "w3")), ("experts", _pointer),
    )  # fmt: skip


AdapterStructs = ctypes.Array[AdapterStruct]
Part = tuple[Tensor, Tensor, float]
"""down [rank, in], up [rank, out], scale."""


Experts = Sequence[Part | None]
"""w1, w2 and w3 of each routed expert of a layer, by number; or nothing."""


def adapter_structs(layers: Sequence[tuple[Mapping[str, Part | None], Experts]]) -> AdapterStructs:
    """Returns an adapter by layer: its parts by the names of wf_adapter. The array keeps their tensors alive."""
    array = (AdapterStruct * len(layers))()
    kept: list[object] = []
    for struct, (parts, experts) in zip(array, layers, strict=True):
        for name, part in parts.items():
            if part is not None:
                setattr(struct, name, _struct(name, part, kept))
        if experts:
            routed = (LowRankStruct * len(experts))()
            for number, part in enumerate(experts):
                if part is not None:
                    routed[number] = _struct("experts", part, kept)
            struct.experts = ctypes.addressof(routed)
            kept.append(routed)
    array.kept = kept  # type: ignore[attr-defined]
    return array


def _struct(name: str, part: Part, kept: list[object]) -> LowRankStruct:
    down, up, scale = part
    if not (down.is_contiguous() and up.is_contiguous() and down.is_cpu and up.dtype == down.dtype):
        raise ValueError(f"{name}: the CPU kernels take contiguous matrices of one dtype on the CPU")
    kept += down, up
    return LowRankStruct(
        FORMS[down.dtype], len(down), scale, down.data_ptr(), up.data_ptr(), down.nbytes, up.nbytes
    )  # fmt: skip


class AdaptedStruct(ctypes.Structure):
    """wf_adapted: rows of a pass and their adapter in one layer."""

    _fields_ = (("first", _int64), ("rows", _int64), ("adapter", _pointer))


Adapted = ctypes.Array[AdaptedStruct]


def adapted(rows: Sequence[tuple[int, int, AdapterStructs]], number: int) -> Adapted:
    """Returns the rows (first, count, adapter by layer) of a pass that have adapters, ascending, in layer `number`."""
    return (AdaptedStruct * len(rows))(*[
        AdaptedStruct(first, count, ctypes.addressof(structs) + number * ctypes.sizeof(AdapterStruct))
        for first, count, structs in rows
    ])  # fmt: skip
