"""Our model as transformers' `DeepseekV4ForCausalLM`: the same weights under the other names, in float32.

transformers is the outside oracle of exact arithmetic. It stacks the routed experts of a layer, w1 above w3, has no MTP
module and keeps `gate.bias` and `tid2eid` as buffers; otherwise its tensors are ours, renamed.
"""

import dataclasses
import re

import torch
from torch import Tensor
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

from wavefold import ModelConfig, Transformer, quant
from wavefold.checkpoint.transformers_layout import to_transformers
from wavefold.model.official import official_tensors

__all__ = ["EAGER", "decoded", "to_transformers", "transformers_config", "transformers_model"]

LAYER_TYPES = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}


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
    """Every tensor of the model by its official name: quantized ones decoded, all floats in float32."""
    stored = dict(official_tensors(model))
    tensors = {}
    for name, tensor in stored.items():
        if tensor.dtype == torch.float8_e8m0fnu:
            continue
        scale = stored.get(re.sub("weight$", "scale", name)) if name.endswith("weight") else None
        integer = scale is None and not tensor.dtype.is_floating_point
        tensors[name] = tensor if integer else quant.dequantize(tensor, scale, torch.float32)
    return tensors


SHARED_KEYS = sorted(
    ({field.name for field in dataclasses.fields(ModelConfig)} & set(DeepseekV4Config().to_dict()))
    - {"rope_scaling", "torch_dtype", "expert_dtype", "compress_ratios", "num_hash_layers", "qk_rope_head_dim"}
)
"""Keys that both configurations have, with one meaning."""
