"""Formats of rows that travel between ranks.

    fp8     e4m3 codes and an e8m0 scale for 128 values: released arithmetic rounds the input of an expert so anyway
    bf16    2 bytes a value
    fp32    4 bytes a value

Rows that a rank sends to itself are rounded too, so the input of an expert does not depend on its place.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from wavefold import quant

Wire = Literal["fp8", "bf16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def check_wire(name: str, allowed: tuple[str, ...] = get_args(Wire)) -> None:
    """Raises ValueError for a format that is not in `allowed`."""
    if name not in allowed:
        raise ValueError(f"wire {name!r} is not allowed; expected {' or '.join(map(repr, allowed))}")


def row_bytes(wire: Wire, dim: int) -> int:
    """Bytes of a row of `dim` values."""
    return dim + -(-dim // quant.FP8_BLOCK) if wire == "fp8" else dim * DTYPES[wire].itemsize


def encode(rows: Tensor, wire: Wire) -> Tensor:
    """rows [n, dim] -> uint8 [n, row_bytes], contiguous."""
    if wire != "fp8":
        return rows.to(DTYPES[wire]).contiguous().view(torch.uint8)
    codes, scale = quant.act_quant(rows, quant.FP8_BLOCK)
    return torch.cat((codes.view(torch.uint8), scale.view(torch.uint8)), -1)


def decode(message: Tensor, wire: Wire, dim: int, dtype: torch.dtype) -> Tensor:
    """The message of `encode` -> rows [n, dim] of `dtype`."""
    if wire != "fp8":
        return message.view(DTYPES[wire]).to(dtype)
    codes, scale = message[:, :dim].contiguous(), message[:, dim:].contiguous()
    return quant.dequantize_rows(
        codes.view(torch.float8_e4m3fn), scale.view(torch.float8_e8m0fnu), quant.FP8_BLOCK, dtype
    )
