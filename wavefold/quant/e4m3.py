"""FP8 e4m3 (torch.float8_e4m3fn): s eeee mmm, bias 7, largest 448; 0x7f and 0xff are NaN, no infinity.

Source: OCP MX specification 1.0 section 5.3.1. Encoding is torch's cast, which rounds ties to even; values
above 448 must not reach it.
"""

import functools

import torch

LARGEST = 448.0


def decode(codes: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values of float8_e4m3fn codes [..., n] in bfloat16, float16 or float32, a new tensor. Exact.

    The same as `codes.to(dtype)`, which on a CPU converts one code at a time and is several times slower.
    Raises ValueError for another type of codes or of result.
    """
    if codes.dtype != torch.float8_e4m3fn:
        raise ValueError(f"e4m3 codes of type {codes.dtype}; allowed is float8_e4m3fn")
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"cannot decode e4m3 to {dtype}; allowed are bfloat16, float16 and float32")
    if codes.device.type != "cpu" or codes.shape[-1] % 2:
        return codes.to(dtype)
    index = codes.contiguous().flatten().view(torch.uint16).to(torch.int32)
    return _pairs(dtype).index_select(0, index).view(dtype).view(codes.shape)


@functools.cache
def _pairs(dtype: torch.dtype) -> torch.Tensor:
    """[65536] integers, each holding the values of two neighbouring codes."""
    word = {2: torch.int32, 4: torch.int64}[dtype.itemsize]
    two_codes = torch.arange(65536, dtype=torch.int32, device="cpu").to(torch.uint16)
    return two_codes.view(torch.float8_e4m3fn).to(dtype).view(word)
