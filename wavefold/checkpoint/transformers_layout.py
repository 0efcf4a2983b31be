"""A model in transformers' layout: `DeepseekV4ForCausalLM` under its own names, nothing quantized.

    official                              transformers
    layers.3.attn.wq_a.weight             model.layers.3.self_attn.q_a_proj.weight
    layers.3.ffn.experts.{e}.w1, w3, w2   model.layers.3.mlp.experts.gate_up_proj [E, 2 I, d], down_proj [E, d, I]

Matrices are decoded to bfloat16, which holds FP4 and FP8 weights exactly; the MTP module is left out, as transformers
has none. The official layout, which transformers reads too, is the smaller one; this is for tools that know only this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavefold import quant
from wavefold.atomic import write_folder, write_json
from wavefold.checkpoint.index import CONFIG_NAME, INDEX_NAME
from wavefold.checkpoint.save import check_formats, config_values
from wavefold.checkpoint.side_files import copy_side_files
from wavefold.checkpoint.write import check_replaceable, save_tensors
from wavefold.model import Transformer
from wavefold.model.official import official_names, official_owner, own_tensors

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


def save_transformers(model: Transformer, path: Path) -> None:
    """Write the folder `path`, a file for each layer, one layer in memory at a time.

    Raises ValueError unless `path` is new, an empty folder or a checkpoint.
    """
    check_replaceable(path)
    check_formats(model)
    names = [name for name in official_names(model) if not name.startswith("mtp.") and not name.endswith(".scale")]
    layers: dict[str, list[str]] = {}
    for name in sorted(names):
        layers.setdefault(name.split(".")[1] if name.startswith("layers.") else "", []).append(name)

    def fill(folder: Path) -> None:
        weight_map: dict[str, str] = {}
        total = 0
        for number, names_of in enumerate(layers.values(), 1):
            file = f"model-{number:05d}-of-{len(layers):05d}.safetensors"
            tensors = to_transformers({name: _decoded(model, name) for name in names_of})
            save_tensors(tensors, folder / file)
            weight_map |= dict.fromkeys(tensors, file)
            total += sum(t.nbytes for t in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / INDEX_NAME, index)
        write_json(folder / CONFIG_NAME, _config_values(model))
        if model.origin is not None:
            copy_side_files(model.origin.folder, folder)

    write_folder(path, fill)


def _config_values(model: Transformer) -> dict[str, Any]:
    """The model's keys, for matrices in bfloat16 without quantization."""
    left_out = ("quantization_config", "expert_dtype", "dtype")
    values = {key: value for key, value in config_values(model).items() if key not in left_out}
    return values | {"torch_dtype": "bfloat16"}


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


def _decoded(model: Transformer, name: str) -> Tensor:
    owner, _, key = name.rpartition(".")
    tensors = own_tensors(official_owner(model, owner))
    tensor = tensors[key].detach()
    return tensor if key != "weight" else quant.dequantize(tensor, tensors.get("scale"), torch.bfloat16)
