"""Matrices in the types of GGUF files, rounded for the smallest weighted error.

    plain.py         F16, BF16, Q8_0, MXFP4; FP4 to MXFP4 and back without a change
    symmetric.py     the search of Q3_K, Q6_K, IQ4_XS
    asymmetric.py    of Q2_K, Q4_K, Q5_K
    lattice.py       of IQ2_XXS, IQ2_XS, IQ3_XXS; their points in i_grids.py
    descent.py       of all but Q8_0 and MXFP4, with moments: errors that add up in a product
    pack.py          parts to bytes
    matrix.py        `encode`: a matrix, some rows at a time

The weighted error of a matrix is sum(importance[column] * (value - written)^2), with the mean square of a column's
input as its importance: the mean squared error of the product, if inputs of columns do not move together.
"""

from wavefold.gguf.types import MATRIX_TYPES, TYPES, GgmlType, fitting, ggml_type

from .matrix import Encoded, encode
from .plain import as_bytes, fp4_of_mxfp4, mxfp4_of_fp4

__all__ = [
    "MATRIX_TYPES", "TYPES", "Encoded", "GgmlType", "as_bytes", "encode", "fitting", "fp4_of_mxfp4", "ggml_type",
    "mxfp4_of_fp4",
]  # fmt: skip
