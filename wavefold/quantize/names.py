"""GGUF's names of the official tensors, as llama.cpp's converter gives them for this architecture.

    layers.3.attn.wq_a.weight                  blk.3.attn_q_a.weight
    layers.3.ffn.experts.{0, 1, ...}.w2        blk.3.ffn_down_exps.weight, one tensor [experts, out, in]

Source: llama.cpp, conversion/deepseek.py and gguf-py's constants (commit 0c1e57098).
"""

from __future__ import annotations

WHOLE = {
    "embed.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "head.weight": "output.weight",
    "hc_head_fn": "output_hc_fn.weight",
    "hc_head_base": "output_hc_base.weight",
    "hc_head_scale": "output_hc_scale.weight",
}
"""Names outside the layers."""

LAYER = {
    "hc_attn_fn": "hc_attn_fn.weight",
    "hc_attn_base": "hc_attn_base.weight",
    "hc_attn_scale": "hc_attn_scale.weight",
    "hc_ffn_fn": "hc_ffn_fn.weight",
    "hc_ffn_base": "hc_ffn_base.weight",
    "hc_ffn_scale": "hc_ffn_scale.weight",
    "attn_norm.weight": "attn_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "attn.attn_sink": "attn_sinks.weight",
    "attn.wq_a.weight": "attn_q_a.weight",
    "attn.wq_b.weight": "attn_q_b.weight",
    "attn.q_norm.weight": "attn_q_a_norm.weight",
    "attn.wkv.weight": "attn_kv.weight",
    "attn.kv_norm.weight": "attn_kv_a_norm.weight",
    "attn.wo_a.weight": "attn_output_a.weight",
    "attn.wo_b.weight": "attn_output_b.weight",
    "attn.compressor.ape": "attn_compressor_ape.weight",
    "attn.compressor.wkv.weight": "attn_compressor_kv.weight",
    "attn.compressor.wgate.weight": "attn_compressor_gate.weight",
    "attn.compressor.norm.weight": "attn_compressor_norm.weight",
    "attn.indexer.wq_b.weight": "indexer.attn_q_b.weight",
    "attn.indexer.weights_proj.weight": "indexer.proj.weight",
    "attn.indexer.compressor.ape": "indexer_compressor_ape.weight",
    "attn.indexer.compressor.wkv.weight": "indexer_compressor_kv.weight",
    "attn.indexer.compressor.wgate.weight": "indexer_compressor_gate.weight",
    "attn.indexer.compressor.norm.weight": "indexer_compressor_norm.weight",
    "ffn.gate.weight": "ffn_gate_inp.weight",
    "ffn.gate.bias": "exp_probs_b.bias",
    "ffn.gate.tid2eid": "ffn_gate_tid2eid.weight",
    "ffn.shared_experts.w1.weight": "ffn_gate_shexp.weight",
    "ffn.shared_experts.w2.weight": "ffn_down_shexp.weight",
    "ffn.shared_experts.w3.weight": "ffn_up_shexp.weight",
}
"""Names in a layer."""

EXPERTS = {"w1": "ffn_gate_exps.weight", "w2": "ffn_down_exps.weight", "w3": "ffn_up_exps.weight"}
"""The tensors of all routed experts of a layer, by matrix."""


def gguf_name(official: str) -> str | None:
    """Returns the name of an official tensor, or None for one that has none: scales, routed experts, MTP modules."""
    if official in WHOLE:
        return WHOLE[official]
    parts = official.split(".", 2)
    if len(parts) < 3 or parts[0] != "layers" or parts[2] not in LAYER:
        return None
    return f"blk.{parts[1]}.{LAYER[parts[2]]}"


def experts_name(layer: int, matrix: str) -> str:
    """Returns the name of a layer's routed experts; `matrix` is w1, w2 or w3."""
    return f"blk.{layer}.{EXPERTS[matrix]}"
