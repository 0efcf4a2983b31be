"""The operations of a forward pass. Each has one contract, stated at its reference (`ops/reference/`)."""

from wavefold.ops.adapter import Adapter, LowRank, add_low_rank
from wavefold.ops.arithmetic import DEFAULT_ARITHMETIC, Arithmetic
from wavefold.ops.backend import kernels_run
from wavefold.ops.choose import Choice, choose, kernels_choose
from wavefold.ops.compress import compress
from wavefold.ops.expert import expert, experts
from wavefold.ops.expert_rows import ExpertRows, moves_rows
from wavefold.ops.flops import FlopCounter, counting, part
from wavefold.ops.hyper_connection import hc_collapse, hc_expand, hc_head, hc_read, hc_weights
from wavefold.ops.index import choose_entries, index_rotate
from wavefold.ops.joint_attention import attend_sequences
from wavefold.ops.linear import grouped_linear, linear, linear_wide, linears
from wavefold.ops.losses import cross_entropy_, sequence_index_loss
from wavefold.ops.multiply import multiply_
from wavefold.ops.norm import rms_norm, rms_norm_rotated
from wavefold.ops.orthogonal import (
    MuonUpdate,
    kernels_orthogonalize,
    kernels_round,
    muon_,
    orthogonalize_,
    round_weight,
)
from wavefold.ops.reference.attention import RELEASED_PIECE, RunningSoftmax
from wavefold.ops.reference.compress import compress_blocks
from wavefold.ops.reference.expert import expert as reference_expert
from wavefold.ops.reference.hyper_connection import hc_split, sinkhorn
from wavefold.ops.reference.index import RunningTopK, index_scores, index_weights
from wavefold.ops.reference.kv import kv_sim
from wavefold.ops.reference.norm import unit_rms_norm
from wavefold.ops.reference.rope import Table, rope_frequencies, rope_table
from wavefold.ops.reference.route import balance_loss, choose_experts, route_weights, router_scores
from wavefold.ops.rope import rotate
from wavefold.ops.runtime import ACTIVATIONS, BACKENDS, Runtime, current, isas, timing, using
from wavefold.ops.tuning import Tuning

__all__ = [
    "ACTIVATIONS", "BACKENDS", "DEFAULT_ARITHMETIC", "RELEASED_PIECE", "Adapter", "Arithmetic", "Choice", "ExpertRows",
    "FlopCounter", "LowRank", "MuonUpdate", "RunningSoftmax", "RunningTopK", "Runtime", "Table", "Tuning",
    "add_low_rank", "attend_sequences", "balance_loss", "choose", "choose_entries", "choose_experts", "compress",
    "compress_blocks", "counting", "cross_entropy_", "current", "expert", "experts", "grouped_linear", "hc_collapse",
    "hc_expand", "hc_head", "hc_read", "hc_split", "hc_weights", "index_rotate", "index_scores", "index_weights",
    "isas", "kernels_choose", "kernels_orthogonalize", "kernels_round", "kernels_run", "kv_sim", "linear",
    "linear_wide", "linears", "moves_rows", "multiply_", "muon_", "orthogonalize_", "part", "reference_expert",
    "rms_norm", "rms_norm_rotated", "rope_frequencies", "rope_table", "rotate", "round_weight", "route_weights",
    "router_scores", "sequence_index_loss", "sinkhorn", "timing", "unit_rms_norm", "using",
]  # fmt: skip
