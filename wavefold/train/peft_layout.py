"""Adapters as PEFT stores them, for transformers' `DeepseekV4ForCausalLM` of the same base, unmerged.

    layers.3.attn.wq_a.lora_a  -->  base_model.model.model.layers.3.self_attn.q_a_proj.lora_A.weight

    FOLDER/adapter_model.safetensors    A [rank, in], B [out, rank]
           adapter_config.json          rank, alpha, and which modules are adapted

transformers has no MTP module, so the adapters of the MTP module are only in adapters.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wavefold.atomic import write_folder, write_json
from wavefold.checkpoint.side_files import GENERATION_CONFIG
from wavefold.checkpoint.transformers_layout import to_transformers
from wavefold.checkpoint.write import save_tensors
from wavefold.model import Transformer
from wavefold.model.parameters import Linear
from wavefold.train.lora import has_adapter
from wavefold.train.recipe import Recipe

CONFIG_NAME = "adapter_config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TARGETS = r".*\.(self_attn\.(q_a_proj|q_b_proj|kv_proj|o_b_proj)|mlp\.shared_experts\.(gate_proj|up_proj|down_proj))"
"""Pattern of the adapted modules. With last names alone, PEFT would adapt compressors and indexers too."""


def check_replaceable_adapter(folder: Path) -> None:
    """Raises ValueError for a folder with content that is no adapter."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder}: holds no adapter, so it is not replaced; move it away")


def save_peft(model: Transformer, parameters: Mapping[str, Tensor], folder: Path, recipe: Recipe, base: str) -> None:
    """Writes the adapters of the main layers of `model` to `folder`. An older adapter there is replaced.

    `parameters`: whole parameters of the model by name, which are rounded to the recipe's `lora_dtype`. `base`: name
    of the checkpoint under the adapters. Raises ValueError for a folder with other content.
    """
    check_replaceable_adapter(folder)
    tensors: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear) and has_adapter(module):
            for key, letter in (("lora_a", "A"), ("lora_b", "B")):
                matrix = parameters[f"{name}.{key}"].detach().to(DTYPES[recipe.lora_dtype]).contiguous()
                for renamed in to_transformers({f"{name}.weight": matrix}):  # none for the MTP module
                    tensors[f"base_model.model.{renamed.removesuffix('.weight')}.lora_{letter}.weight"] = matrix
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": recipe.lora_rank,
        "lora_alpha": recipe.lora_alpha, "lora_dropout": 0.0, "bias": "none", "target_modules": TARGETS,
        "use_rslora": False, "inference_mode": True,
    }  # fmt: skip

    def fill(fresh: Path) -> None:
        save_tensors(tensors, fresh / "adapter_model.safetensors")
        write_json(fresh / CONFIG_NAME, config)
        if recipe.lora_greedy:
            write_json(fresh / GENERATION_CONFIG, {"do_sample": False})

    write_folder(folder, fill)
