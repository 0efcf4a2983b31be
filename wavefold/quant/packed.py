"""Matrices as GGUF files hold them: rows of blocks, each with its codes and its own scales.

    codes uint8 [..., out, bytes of a row] --blocks--> values float32, a block at a time --> any dtype

Values are those of ggml's own decoding to the bit, in float32; another dtype rounds them once. The K formats are in
`k_quants.py`, the IQ formats in `i_quants.py`, the two with blocks of 32 here:

    q8_0    34 bytes   d * q                      d float16 | q int8 [32]
    mxfp4   17 bytes   2^(e - 128) * table[q]     e | q 4 bits [16]: the low halves are the first 16 values

MXFP4 has FP4's values in another order of codes. Two differ: e = 255 is 2^127 (FP4: NaN), and code 8 is plain zero
(FP4: minus zero).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import i_quants, k_quants
from .format import Format
from .k_quants import fields, float16
from .rows import by_rows

TWICE_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def decode_packed(codes: Tensor, form: Format, dtype: torch.dtype) -> Tensor:
    """codes uint8 [..., bytes of a row] of a format with blocks -> the values [..., columns] in `dtype`, a new tensor.

    Raises ValueError for codes of another dtype, or for a row that is no whole number of blocks.
    """
    values, num_bytes = form.group
    if codes.dtype != torch.uint8 or codes.shape[-1] % num_bytes:
        raise ValueError(
            f"{form.name} codes of {codes.dtype} and shape {list(codes.shape)}; expected uint8, rows of whole blocks "
            f"of {num_bytes} bytes"
        )
    columns = codes.shape[-1] // num_bytes * values
    decode = DECODERS[form.name]

    def rows_of(rows: Tensor) -> tuple[Tensor]:
        return (decode(rows.reshape(-1, num_bytes)).reshape(len(rows), columns).to(dtype),)

    (decoded,) = by_rows(rows_of, codes.reshape(-1, codes.shape[-1]))
    return decoded.view(*codes.shape[:-1], columns)


def decode_q8_0(blocks: Tensor) -> Tensor:
    return float16(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


def decode_mxfp4(blocks: Tensor) -> Tensor:
    exponent = blocks[:, :1].to(torch.int32)
    half = torch.where(exponent < 2, 0x200000 << exponent.clamp(max=1), exponent.sub(1) << 23).view(torch.float32)
    values = torch.tensor(TWICE_E2M1, dtype=torch.float32, device=blocks.device)
    return half * values[fields(blocks[:, 1:], 4, 4, 16).flatten(1).long()]


DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "q8_0": decode_q8_0,
    "q6_k": k_quants.decode_q6_k,
    "q5_k": k_quants.decode_q5_k,
    "q4_k": k_quants.decode_q4_k,
    "q3_k": k_quants.decode_q3_k,
    "q2_k": k_quants.decode_q2_k,
    "iq4_xs": i_quants.decode_iq4_xs,
    "iq3_xxs": i_quants.decode_iq3_xxs,
    "iq2_xs": i_quants.decode_iq2_xs,
    "iq2_xxs": i_quants.decode_iq2_xxs,
    "mxfp4": decode_mxfp4,
}
"""By format: bytes [n, bytes of a block] to float32 [n, values of a block]."""
