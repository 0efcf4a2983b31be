"""FP4 e2m1, two codes to a byte.

    code  s e e m    magnitudes 0 0.5 1 1.5 2 3 4 6; neither infinity nor NaN
    byte  [ code of element 2i+1 | code of element 2i ]    the LOW nibble is the even element

Source: OCP MX specification 1.0 section 5.3.3 for the code, the official checkpoint for the packing.
"""

import functools

import torch

VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The value of each 4-bit code. Code 8 is minus zero."""

LARGEST = 6.0


def decode(packed: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values of packed codes: int8 or uint8 [..., n/2] to `dtype` [..., n], a new tensor. Exact.

    `dtype` is bfloat16, float16 or float32. Raises ValueError for another type of bytes or of result.
    """
    if packed.dtype not in (torch.int8, torch.uint8):
        raise ValueError(f"e2m1 codes of type {packed.dtype}; packed bytes are int8 or uint8")
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"cannot decode e2m1 to {dtype}; allowed are bfloat16, float16 and float32")
    index = packed.contiguous().view(torch.uint8).flatten().to(torch.int32)
    pairs = _pairs(dtype, packed.device).index_select(0, index)
    return pairs.view(dtype).view(*packed.shape[:-1], 2 * packed.shape[-1])


@functools.cache
def _pairs(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[256] integers, each holding both values of a byte: a [256, 2] table, each row of it one fetch."""
    word = {2: torch.int32, 4: torch.int64}[dtype.itemsize]
    table = [[VALUES[byte & 15], VALUES[byte >> 4]] for byte in range(256)]
    return torch.tensor(table, dtype=dtype, device=device).view(word).squeeze(-1)


def encode(x: torch.Tensor) -> torch.Tensor:
    """Packed codes of the nearest e2m1 values: bfloat16, float16 or float32 [..., n] to int8 [..., n/2].

    Ties go to the even code; magnitudes above 6 become 6; the sign of zero is kept. e2m1 has no NaN: one
    gets an arbitrary code, and only its block's scale can tell.
    Raises ValueError for an odd n or another type.
    """
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"cannot encode {x.dtype} as e2m1; allowed are bfloat16, float16 and float32")
    if x.shape[-1] % 2:
        raise ValueError(f"last dimension {x.shape[-1]} is odd; e2m1 codes are packed in pairs")
    x = x.contiguous().float()
    a = x.abs()
    # Codes step by 0.5 up to 2, by 1 up to 4, by 2 up to 6, so the code is round(min(2a, a + 2, a/2 + 4)).
    # Rounding commutes with min and with adding an even number, and taken first it is the only rounding.
    code = a.mul(2).round_()
    torch.minimum(code, a.round().add_(2), out=code)
    torch.minimum(code, a.mul_(0.5).round_().add_(4).clamp_(max=7), out=code)
    nibbles = code.to(torch.uint8)
    nibbles |= torch.signbit(x).view(torch.uint8) << 3
    # Two nibbles read as one little-endian word are 0x0H0L; the low byte of 0x0H0L | 0x00H0 is 0xHL.
    word = nibbles.view(torch.int16)
    return (word | word >> 4).to(torch.uint8).view(torch.int8)
