"""Our model as transformers' `DeepseekV4ForCausalLM`: the same weights under the other names, in float32.

transformers is the outside oracle of exact arithmetic. It stacks the routed experts of a layer, w1 above w3, has no MTP
module and keeps `gate.bias` and `tid2eid` as buffers; otherwise its tensors are ours, renamed.
"""

import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

from wavefold import ModelConfig, Transformer, quant

LAYER_TYPES = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}

RENAMES = [
    (r"^head\.", "lm_head."),
    (r"^(embed)\.", r"model.\1_tokens."),
    (r"^(norm|layers)\.", r"model.\1."),
    (r"^hc_head_", "model.hc_head.hc_"),
    (r"\.hc_(attn|ffn)_(fn|base|scale)$", r".\1_hc.\2"),
    (r"\.attn_norm\.", ".input_layernorm."),
    (r"\.ffn_norm\.", ".post_attention_layernorm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ffn\.", ".mlp."),
    (r"\.indexer\.compressor\.", ".indexer."),
    (r"\.indexer\.", ".compressor.indexer."),
    (r"\.weights_proj\.", ".scorer.weights_proj."),
    (r"(compressor\.(?:indexer\.)?)norm\.", r"\1kv_norm."),
    (r"\.q_norm\.", ".q_a_norm."),
    (r"\.w(q_a|q_b|kv|gate|o_a|o_b)\.", r".\1_proj."),
    (r"\.ape$", ".position_bias"),
    (r"\.attn_sink$", ".sinks"),
    (r"\.gate\.bias$", ".gate.e_score_correction_bias"),
    (r"shared_experts\.w1\.", "shared_experts.gate_proj."),
    (r"shared_experts\.w2\.", "shared_experts.down_proj."),
    (r"shared_experts\.w3\.", "shared_experts.up_proj."),
]


def transformers_config(config: ModelConfig) -> DeepseekV4Config:
    """The same architecture in transformers' own keys; nothing is left to its defaults or to its reading of ours."""
    hash_layers, layers = config.num_hash_layers, config.num_hidden_layers
    partial = {"partial_rotary_factor": (config.qk_rope_head_dim + 0.5) / config.head_dim}  # it is rounded down
    yarn = {"rope_type": "yarn", "attention_factor": 1.0, **dataclasses.asdict(config.rope_scaling)}
    return DeepseekV4Config(
        **{name: getattr(config, name) for name in SHARED_KEYS},
        **partial,
        layer_types=[LAYER_TYPES[ratio] for ratio in config.compress_ratios[:layers]],
        mlp_layer_types=["hash_moe"] * hash_layers + ["moe"] * (layers - hash_layers),
        rope_parameters={
            "main": {"rope_type": "default", "rope_theta": config.rope_theta, **partial},
            "compress": {"rope_theta": config.compress_rope_theta, **yarn, **partial},
        },
        **EAGER,
    )


def transformers_model(model: Transformer, config: DeepseekV4Config | None = None) -> DeepseekV4ForCausalLM:
    """transformers' model with the weights of ours, float32, on the same device."""
    config = config or transformers_config(model.config)
    other = DeepseekV4ForCausalLM(config).to(model.device).eval()
    other.load_state_dict(to_transformers(decoded(model)), strict=True)
    return other


def decoded(model: Transformer) -> dict[str, Tensor]:
    """Every tensor of the model by its official name: quantised ones decoded, all floats in float32."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.dtype == torch.float8_e8m0fnu:
            continue
        scale = model.state_dict().get(re.sub("weight$", "scale", name)) if name.endswith("weight") else None
        integer = scale is None and not tensor.dtype.is_floating_point
        tensors[name] = tensor if integer else quant.dequantize(tensor, scale, torch.float32)
    return tensors


def to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by official name (weights or their gradients) as transformers has them: renamed, experts stacked."""
    renamed: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        if name.startswith("mtp."):
            continue
        for pattern, new in RENAMES:
            name = re.sub(pattern, new, name)
        routed = re.fullmatch(r"(.*\.experts)\.(\d+)\.(w[123])\.weight", name)
        if routed is None:
            renamed[name] = tensor
        else:
            stacks.setdefault(routed[1], {}).setdefault(int(routed[2]), {})[routed[3]] = tensor
    for prefix, experts in stacks.items():
        ordered = [experts[expert] for expert in range(len(experts))]
        renamed[f"{prefix}.gate_up_proj"] = torch.stack([torch.cat((w["w1"], w["w3"])) for w in ordered])
        renamed[f"{prefix}.down_proj"] = torch.stack([w["w2"] for w in ordered])
    return renamed


SHARED_KEYS = sorted(
    ({field.name for field in dataclasses.fields(ModelConfig)} & set(DeepseekV4Config().to_dict()))
    - {"rope_scaling", "torch_dtype", "expert_dtype", "compress_ratios", "num_hash_layers", "qk_rope_head_dim"}
)
"""Keys that both configurations have, with one meaning."""
