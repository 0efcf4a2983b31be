"""The CPU kernels of csrc/, through their C interface. Absent where no library was built: the references stand in."""

from wavefold.ops.native.attention import attend, index_select
from wavefold.ops.native.block import (
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
from wavefold.ops.native.library import available, isas
from wavefold.ops.native.linear import decode, fp8_sim, linear
from wavefold.ops.native.rows import ROW_FORMS, RowSource

__all__ = [
    "ROW_FORMS", "BlockParameters", "ExpertStruct", "PassBuffers", "RowSource", "RunStruct", "Spans", "attend",
    "available", "block_attention", "decode", "expert_struct", "experts", "fp8_sim", "index_select", "isas",
    "leave", "linear", "spans",
]  # fmt: skip
