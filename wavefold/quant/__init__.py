"""Number formats: bit layouts in plain torch, on any device. csrc has the same layouts for the CPU kernels.

    e2m1.py        FP4: two 4-bit codes to a byte
    e4m3.py        FP8 codes
    e8m0.py        scales: one byte, a power of two
    rows.py        rows cut into blocks with a scale each, for weights and activations
    blocks.py      weights as a checkpoint stores them: dequantize, quantize, FP4 to FP8 and back
    packed.py      GGUF's blocks: dispatch, Q8_0, MXFP4
    k_quants.py    Q2_K to Q6_K
    i_quants.py    IQ4_XS, IQ3_XXS, IQ2_XS, IQ2_XXS
    i_grids.py     their grids
    format.py      the formats of stored matrices
    weight.py      a stored matrix: format, size, codes, scales
    activation.py  activations: FP8 for a GEMM's input, and the FP8 and FP4 simulations
    hadamard.py    the rotation that precedes FP4 in the indexer

value = code * scale in every official format: e2m1 codes with a scale per row and 32 columns (the OCP's MXFP4), e4m3
weights with a scale per 128x128, e4m3 activations with a scale per row and 64 or 128 columns. Values are
rounded to nearest, ties to even; scales are rounded up to a power of two, so that no value is clipped.

Sources: the official checkpoint format, its converter and kernels; DeepSeek-V4 report section 5.2.1 (training
for FP4); OCP Microscaling Formats (MX) specification 1.0. Only `hadamard` carries a gradient.
"""

from . import e2m1, e4m3, e8m0
from .activation import act_quant, fp4_quant, fp4_sim, fp8_sim
from .blocks import (
    FP4_BLOCK,
    FP8_BLOCK,
    count_lossy_tiles,
    dequantize,
    fp4_to_fp8,
    fp8_to_fp4,
    quantize_fp4,
    quantize_fp8,
)
from .format import FORMATS, Format, format_of
from .hadamard import hadamard
from .packed import decode_packed
from .rows import dequantize_rows
from .weight import Weight

__all__ = [
    "FORMATS",
    "FP4_BLOCK",
    "FP8_BLOCK",
    "Format",
    "Weight",
    "act_quant",
    "count_lossy_tiles",
    "decode_packed",
    "dequantize",
    "dequantize_rows",
    "e2m1",
    "e4m3",
    "e8m0",
    "format_of",
    "fp4_quant",
    "fp4_sim",
    "fp4_to_fp8",
    "fp8_sim",
    "fp8_to_fp4",
    "hadamard",
    "quantize_fp4",
    "quantize_fp8",
]
