"""The CPU kernels of csrc/, through their C interface. Without a built library the references replace them."""

from wavefold.ops.native.attention import attend, index_select
from wavefold.ops.native.block import (
    EXPERT_DTYPE,
    BlockParameters,
    ExpertStruct,
    PassBuffers,
    Ranges,
    Spans,
    SpanStruct,
    Staged,
    StagedStruct,
    Views,
    ViewStruct,
    block_attention,
    expert_struct,
    experts,
    leave,
    ranges,
    span,
    spans,
    staged,
    views,
)
from wavefold.ops.native.choose import Choice, choose
from wavefold.ops.native.forward import MTPModule, Wanted, WholeModel, forward, mtp
from wavefold.ops.native.library import available, isas
from wavefold.ops.native.linear import FORMS, decode, fp8_sim, linear, takes
from wavefold.ops.native.low_rank import Adapted, AdapterStructs, adapted, adapter_structs
from wavefold.ops.native.rows import ROW_FORMS, RowSource

__all__ = [
    "EXPERT_DTYPE", "FORMS", "ROW_FORMS", "Adapted", "AdapterStructs", "BlockParameters", "Choice", "ExpertStruct",
    "MTPModule", "PassBuffers", "Ranges", "RowSource", "SpanStruct", "Spans", "Staged", "StagedStruct", "ViewStruct",
    "Views", "Wanted", "WholeModel", "adapted", "adapter_structs", "attend", "available", "block_attention", "choose",
    "decode", "expert_struct", "experts", "forward", "fp8_sim", "index_select", "isas", "leave", "linear", "mtp",
    "ranges", "span", "spans", "staged", "takes", "views",
]  # fmt: skip
