"""The CPU kernels of csrc/, through their C interface. Absent where no library was built: the references stand in."""

from wavefold.ops.native.attention import attend, index_select
from wavefold.ops.native.block import (
    EXPERT_DTYPE,
    BlockParameters,
    ExpertStruct,
    PassBuffers,
    RunStruct,
    Spans,
    block_attention,
    expert_struct,
    experts,
    leave,
    spans,
)
from wavefold.ops.native.library import available, isa, isas, timing, use_batch_invariant, use_isa
from wavefold.ops.native.linear import FORMS, decode, fp8_sim, linear
from wavefold.ops.native.rows import ROW_FORMS, RowSource

__all__ = [
    "EXPERT_DTYPE", "FORMS", "ROW_FORMS", "BlockParameters", "ExpertStruct", "PassBuffers", "RowSource", "RunStruct",
    "Spans", "attend", "available", "block_attention", "decode", "expert_struct", "experts", "fp8_sim", "index_select",
    "isa", "isas", "leave", "linear", "spans", "timing", "use_batch_invariant", "use_isa",
]  # fmt: skip
