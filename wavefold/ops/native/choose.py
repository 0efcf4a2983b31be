"""The choice of tokens from logits. What it means: `wf_choice` of csrc/wavefold.h, and engine/choosing.py in torch."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import check, require, runtime

_double, _float, _int64, _pointer = ctypes.c_double, ctypes.c_float, ctypes.c_int64, ctypes.c_void_p


class Choice(ctypes.Structure):
    """wf_choice. `of` makes one."""

    kept: tuple[object, ...]

    _fields_ = (
        ("row", _int64), ("seed", _int64), ("position", _int64), ("answer", _int64), ("top_k", _int64),
        ("temperature", _double), ("top_p", _double), ("min_p", _double),
        ("repetition", _float), ("presence", _float), ("frequency", _float),
        ("prompt", _pointer), ("output", _pointer), ("prompt_tokens", _int64), ("output_tokens", _int64),
        ("bias_ids", _pointer), ("bias", _pointer), ("biases", _int64),
        ("mask", _pointer), ("mask_bytes", _int64),
    )  # fmt: skip

    @classmethod
    def of(
        cls, row: int, seed: int, position: int, answer: int, filters: tuple[float, float, int, float],
        penalties: tuple[float, float, float], prompt: Sequence[int] = (), output: Sequence[int] = (),
        bias: tuple[Sequence[int], Sequence[float]] = ((), ()), mask: Tensor | None = None,
    ) -> Choice:  # fmt: skip
        """Returns a choice from row `row` of the logits that keeps its memory alive.

        `filters`: temperature, top_p, top_k, min_p; `penalties`: repetition, presence, frequency; `bias`: ids and
        values; `mask` int32 [ceil(vocab / 32)]: bit i of the words allows token i.
        """
        temperature, top_p, top_k, min_p = filters
        if penalties == (1.0, 0.0, 0.0):
            prompt = output = ()
        ids = [values if isinstance(values, array) else array("q", values) for values in (prompt, output, bias[0])]
        values = array("f", bias[1])
        if mask is not None:
            mask = mask.contiguous()
        addresses = [_address(part) for part in (*ids, values)]
        choice = cls(
            row, seed, position, answer, min(top_k, 2**62), temperature, top_p, min_p, *penalties,
            addresses[0], addresses[1], len(ids[0]), len(ids[1]), addresses[2], addresses[3], len(values),
            None if mask is None else mask.data_ptr(), 0 if mask is None else mask.nbytes,
        )  # fmt: skip
        choice.kept = (*ids, values, mask)
        return choice


def choose(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
    """logits float32 [n, vocab], contiguous, on the CPU -> the token of each choice.

    -1 stands for a row with NaN or +inf, and for one that allows no token. Raises ValueError for choices out of range.
    """
    if logits.dtype != torch.float32 or not (logits.is_cpu and logits.is_contiguous() and logits.dim() == 2):
        raise ValueError(f"logits {list(logits.shape)} of {logits.dtype}; expected float32 [n, vocab] on the CPU")
    structs = (Choice * len(choices))(*choices)
    ids = (_int64 * len(choices))()
    check(require().wf_choose(runtime(), logits.data_ptr(), *logits.shape, structs, len(choices), ids))
    return list(ids)


def _address(values: array[Any]) -> int | None:
    return values.buffer_info()[0] if values else None
