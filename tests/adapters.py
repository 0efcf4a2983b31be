"""Adapters as PEFT stores them, written with safetensors alone: random A and B of a size that changes answers."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wavefold.config import ModelConfig

NAMES = {
    "wq_a": "self_attn.q_a_proj", "wq_b": "self_attn.q_b_proj", "wkv": "self_attn.kv_proj",
    "wo_b": "self_attn.o_b_proj", "w1": "mlp.shared_experts.gate_proj", "w2": "mlp.shared_experts.down_proj",
    "w3": "mlp.shared_experts.up_proj",
}  # fmt: skip


def shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Shapes [out, in] of the matrices of a layer that may be adapted."""
    hidden, inter = config.hidden_size, config.moe_intermediate_size
    return {
        "wq_a": (config.q_lora_rank, hidden),
        "wq_b": (config.num_attention_heads * config.head_dim, config.q_lora_rank),
        "wkv": (config.head_dim, hidden), "wo_b": (hidden, config.o_groups * config.o_lora_rank),
        "w1": (inter, hidden), "w2": (hidden, inter), "w3": (inter, hidden),
    }  # fmt: skip


def tensors_of(
    config: ModelConfig, seed: int, rank: int = 4, size: float = 0.5, dtype: torch.dtype = torch.float32,
    routed: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """A and B of all layers: B A has values of about size / sqrt(in)."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config.num_hidden_layers):
        for name, (rows, columns) in shapes(config).items():
            prefix = f"base_model.model.model.layers.{layer}.{NAMES[name]}"
            a, b = torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator)
            tensors[f"{prefix}.lora_A.weight"] = (a * columns**-0.5).to(dtype)
            tensors[f"{prefix}.lora_B.weight"] = (b * size * rank**-0.5).to(dtype)
        prefix = f"base_model.model.model.layers.{layer}.mlp.experts"
        hidden, inter, number = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts
        for place, rows, columns in ((f"{prefix}.base_layer", 2 * inter, hidden), (prefix, hidden, inter)):
            if routed:  # as PEFT wraps a module of two stacks
                a = torch.randn(number * rank, columns, generator=generator) * columns**-0.5
                b = torch.randn(rows, rank * number, generator=generator) * size * rank**-0.5
                tensors |= {f"{place}.lora_A.weight": a.to(dtype), f"{place}.lora_B.weight": b.to(dtype)}
    return tensors


def write_adapter(
    folder: Path, config: ModelConfig, seed: int, rank: int = 4, size: float = 0.5,
    dtype: torch.dtype = torch.float32, routed: bool = False, **options: object,
) -> Path:  # fmt: skip
    """Writes an adapter of scale 1, unless the options say otherwise. Returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors_of(config, seed, rank, size, dtype, routed), folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none", "target_modules": ["q_a_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(values | options))
    return folder
