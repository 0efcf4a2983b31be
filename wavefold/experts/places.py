"""Where an expert's bytes lie: parts of files, places in a slot of memory, and tensors at these places.

    table, key --laid_out--> parts of files, and a place of each tensor --tensors_in--> ExpertWeights

Parts are whole pages of files, so a tensor begins anywhere in its slot's pages. Nothing is read here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wavefold.experts.reading import ALIGNMENT, Part
from wavefold.experts.slots import Key
from wavefold.experts.store import ExpertWeights, stored_weights
from wavefold.experts.table import ABSENT, MATRICES, PARTS, ExpertTable


def slot_bytes(largest: int) -> int:
    """Returns the bytes of a slot for experts of `largest` bytes at most: each tensor takes whole pages."""
    pages = 2 * len(MATRICES) * len(PARTS)
    return -(-largest // ALIGNMENT) * ALIGNMENT + pages * ALIGNMENT


def laid_out(table: ExpertTable, key: Key, base: int) -> tuple[list[Part], np.ndarray]:
    """Returns the parts of files that hold an expert, read to memory from `base` on, and where each tensor begins.

    The places are those of [matrices, parts] in the memory, -1 for an absent tensor. Tensors that share a page of a
    file are read together.
    """
    files, offsets = table.file[key].ravel().tolist(), table.offset[key].ravel().tolist()
    sizes = _sizes(table, key)
    places = np.full(len(files), -1, np.int64)
    parts: list[Part] = []
    at = base
    for number in sorted(range(len(files)), key=lambda number: (files[number], offsets[number])):
        if files[number] == ABSENT or not sizes[number]:
            continue
        begin = offsets[number] - offsets[number] % ALIGNMENT
        end = -(-(offsets[number] + sizes[number]) // ALIGNMENT) * ALIGNMENT
        last = parts[-1] if parts else None
        if last is not None and last.file == files[number] and begin <= last.end:
            parts[-1] = last._replace(end=max(end, last.end))
        else:
            parts.append(Part(files[number], begin, end, at))
        places[number] = parts[-1].at + offsets[number] - parts[-1].begin
        at = parts[-1].at + parts[-1].end - parts[-1].begin
    return parts, places.reshape(len(MATRICES), len(PARTS))


def _sizes(table: ExpertTable, key: Key) -> list[int]:
    """Returns the bytes of an expert's tensors, [matrices, parts] flat."""
    sizes = []
    for matrix, form in enumerate(table.form[key].tolist()):
        codes, scales = table.bytes_by_form(matrix)
        sizes += [int(codes[form]), int(scales[form])]
    return sizes


def tensors_in(table: ExpertTable, key: Key, memory: object, places: np.ndarray) -> ExpertWeights:
    """Returns an expert's tensors as views of `memory`, on meta where they lie in no file."""

    def opened(matrix: int, part: int, dtype: torch.dtype, shape: tuple[int, int]) -> Tensor:
        count, at = shape[0] * shape[1], int(places[matrix, part])
        return torch.frombuffer(memory, dtype=dtype, count=count, offset=at).view(shape)  # type: ignore[call-overload]

    return stored_weights(table, *key, opened)
