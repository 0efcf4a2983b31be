"""The keys and names of GGUF files of this architecture, beside those of the official layout. The one place for both.

    llama.cpp   writes the names of the first column of NAMES; keys may be missing, which the tensors' shapes replace
    ds4         the same names, with vocab_size among the keys; its own types, whatever they are, are read as others are

Older converters' names are aliases. A tensor of routed experts holds all of a layer: [experts, out, in].
"""

from __future__ import annotations

import re
from typing import NamedTuple

ROOT = {
    "token_embd.weight": "embed.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "head.weight",
    "output_hc_fn.weight": "hc_head_fn",
    "output_hc_base.weight": "hc_head_base",
    "output_hc_scale.weight": "hc_head_scale",
}
"""GGUF's names of tensors outside layers, and the official ones."""

NAMES = {
    "attn_norm.weight": "attn_norm.weight",
    "attn_sinks.weight": "attn.attn_sink",
    "attn_q_a.weight": "attn.wq_a.weight",
    "attn_q_a_norm.weight": "attn.q_norm.weight",
    "attn_q_b.weight": "attn.wq_b.weight",
    "attn_kv.weight": "attn.wkv.weight",
    "attn_kv_a_norm.weight": "attn.kv_norm.weight",
    "attn_output_a.weight": "attn.wo_a.weight",
    "attn_output_b.weight": "attn.wo_b.weight",
    "attn_compressor_ape.weight": "attn.compressor.ape",
    "attn_compressor_kv.weight": "attn.compressor.wkv.weight",
    "attn_compressor_gate.weight": "attn.compressor.wgate.weight",
    "attn_compressor_norm.weight": "attn.compressor.norm.weight",
    "indexer.attn_q_b.weight": "attn.indexer.wq_b.weight",
    "indexer.proj.weight": "attn.indexer.weights_proj.weight",
    "indexer_compressor_ape.weight": "attn.indexer.compressor.ape",
    "indexer_compressor_kv.weight": "attn.indexer.compressor.wkv.weight",
    "indexer_compressor_gate.weight": "attn.indexer.compressor.wgate.weight",
    "indexer_compressor_norm.weight": "attn.indexer.compressor.norm.weight",
    "hc_attn_fn.weight": "hc_attn_fn",
    "hc_attn_base.weight": "hc_attn_base",
    "hc_attn_scale.weight": "hc_attn_scale",
    "hc_ffn_fn.weight": "hc_ffn_fn",
    "hc_ffn_base.weight": "hc_ffn_base",
    "hc_ffn_scale.weight": "hc_ffn_scale",
    "ffn_norm.weight": "ffn_norm.weight",
    "ffn_gate_inp.weight": "ffn.gate.weight",
    "ffn_gate_tid2eid.weight": "ffn.gate.tid2eid",
    "exp_probs_b.bias": "ffn.gate.bias",
    "ffn_gate_shexp.weight": "ffn.shared_experts.w1.weight",
    "ffn_down_shexp.weight": "ffn.shared_experts.w2.weight",
    "ffn_up_shexp.weight": "ffn.shared_experts.w3.weight",
    "ffn_gate_exps.weight": "ffn.experts.{}.w1.weight",
    "ffn_down_exps.weight": "ffn.experts.{}.w2.weight",
    "ffn_up_exps.weight": "ffn.experts.{}.w3.weight",
}
"""GGUF's names of a layer's tensors, after blk.N, and the official ones, after layers.N. {} is an expert's number."""

_OF_ROOT = {official: name for name, official in ROOT.items()}
_OF_LAYER = {official: name for name, official in NAMES.items()}

ALIASES = {
    "attn_kv_norm.weight": "attn_kv_a_norm.weight",
    "attn_sinks": "attn_sinks.weight",
    "exp_probs_b.weight": "exp_probs_b.bias",
    "exp_probs_b": "exp_probs_b.bias",
    "ffn_exp_probs_b.bias": "exp_probs_b.bias",
    "ffn_gate_tid2eid": "ffn_gate_tid2eid.weight",
    "attn_compressor_ape": "attn_compressor_ape.weight",
    "indexer_compressor_ape": "indexer_compressor_ape.weight",
    "indexer.compressor_ape.weight": "indexer_compressor_ape.weight",
    "indexer.compressor_kv.weight": "indexer_compressor_kv.weight",
    "indexer.compressor_gate.weight": "indexer_compressor_gate.weight",
    "indexer.compressor_norm.weight": "indexer_compressor_norm.weight",
    "hc_head_fn.weight": "output_hc_fn.weight",
    "hc_head_base.weight": "output_hc_base.weight",
    "hc_head_scale.weight": "output_hc_scale.weight",
    **{
        f"{name}_{part}": f"{name}_{part}.weight"
        for name in ("hc_attn", "hc_ffn", "output_hc")
        for part in ("fn", "base", "scale")
    },
}
"""Other names in use, after blk.N or alone."""

NOT_READ = re.compile(r"blk\.\d+\.(nextn\.|exp_probs_b_vl\.)|mtp\.|dspark\.|blk\.\d+\..*rope_freqs|rope_freqs")
"""Names of tensors that the text model does not need: MTP modules and drafters, image tokens' biases, tables."""

LAYER = re.compile(r"blk\.(\d{1,5})\.(.+)")


class Key(NamedTuple):
    """A key of config.json, and the keys of GGUF files that say the same, after `deepseek4.`; the first is usual."""

    config: str
    names: tuple[str, ...]


KEYS = tuple(
    Key(config, tuple(names.split()))
    for config, names in {
        "vocab_size": "vocab_size",
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "qk_rope_head_dim": "rope.dimension_count",
        "q_lora_rank": "attention.q_lora_rank",
        "o_groups": "attention.output_group_count output_group_count",
        "o_lora_rank": "attention.output_lora_rank output_lora_rank",
        "compress_ratios": "attention.compress_ratios compress_ratios",
        "index_n_heads": "attention.indexer.head_count indexer.head_count",
        "index_head_dim": "attention.indexer.key_length indexer.key_length",
        "index_topk": "attention.indexer.top_k indexer.top_k",
        "n_routed_experts": "expert_count",
        "num_experts_per_tok": "expert_used_count",
        "n_shared_experts": "expert_shared_count",
        "moe_intermediate_size": "expert_feed_forward_length",
        "num_hash_layers": "hash_layer_count",
        "routed_scaling_factor": "expert_weights_scale",
        "norm_topk_prob": "expert_weights_norm",
        "scoring_func": "expert_gating_func",
        "sliding_window": "attention.sliding_window",
        "swiglu_limit": "swiglu_clamp_exp swiglu_limit",
        "hc_mult": "hyper_connection.count",
        "hc_sinkhorn_iters": "hyper_connection.sinkhorn_iterations",
        "hc_eps": "hyper_connection.epsilon",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "max_position_embeddings": "context_length",
        "rope_theta": "rope.freq_base",
        "compress_rope_theta": "attention.compress_rope_freq_base compress_rope_freq_base",
    }.items()
)
"""Keys of config.json by those of GGUF files. `values.py` adds what is not one key there: YaRN, tokens, MTP layers."""

PREFIX = "deepseek4."
GATING = {1: "softmax", 2: "sigmoid", 3: "softmax after top-k", 4: "sqrtsoftplus"}
"""scoring_func by GGUF's number."""
NEEDED = ("qk_rope_head_dim", "index_topk", "num_experts_per_tok", "routed_scaling_factor")
"""Keys of config.json that have no default, and that no shape tells."""


def gguf_name(official: str) -> str | None:
    """Returns the usual name of an official tensor, or None for one that has none: scales, routed experts, MTP."""
    if official in _OF_ROOT:
        return _OF_ROOT[official]
    parts = official.split(".", 2)
    if len(parts) < 3 or parts[0] != "layers" or parts[2] not in _OF_LAYER:
        return None
    return f"blk.{parts[1]}.{_OF_LAYER[parts[2]]}"


def experts_name(layer: int, matrix: str) -> str:
    """Returns the name of a layer's routed experts; `matrix` is w1, w2 or w3."""
    return f"blk.{layer}." + _OF_LAYER["ffn.experts.{}." + f"{matrix}.weight"]


def official_name(name: str) -> str | None:
    """Returns the official name of a file's tensor, with {} for an expert's number; None for one that is not known."""
    if (found := LAYER.fullmatch(name)) is None:
        return ROOT.get(ALIASES.get(name, name))
    official = NAMES.get(ALIASES.get(found[2], found[2]))
    return None if official is None else f"layers.{int(found[1])}.{official}"
