"""The CPU kernels of csrc/, through their C interface. Absent where no library was built: the references stand in."""

from wavefold.ops.native.library import available, isa, isas, use_isa
from wavefold.ops.native.linear import GEMV_ROWS, decode, fp8_sim, linear

__all__ = ["GEMV_ROWS", "available", "decode", "fp8_sim", "isa", "isas", "linear", "use_isa"]
