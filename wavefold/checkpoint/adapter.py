"""Adapters of a folder in PEFT's layout (peft 0.21), for transformers' `DeepseekV4ForCausalLM` of the same base.

    adapter_config.json                        rank, alpha, and options, of which those that change numbers are refused
    adapter_model.safetensors                  A [rank, in], B [out, rank], float32 or bfloat16
      base_model.model.model.layers.3.self_attn.q_a_proj.lora_A.weight   ->   layers.3.attn.wq_a

Names, sizes and dtypes are checked against the configuration of the base before a matrix is read. Matrices are read
into memory of their own, so a file that is written over changes no adapter that was read from it.
"""

from __future__ import annotations

import json
import os
import re
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavefold.checkpoint.index import TensorRef, tensor_refs
from wavefold.config import ModelConfig
from wavefold.ops import Adapter, LowRank
from wavefold.ops.adapter import PLACES, routed_place
from wavefold.ops.native.low_rank import MOST_RANK

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
LARGEST_CONFIG = 1 << 20
LARGEST_ALPHA = 1_000_000
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
MODULES = {
    "self_attn.q_a_proj": "attn.wq_a", "self_attn.q_b_proj": "attn.wq_b", "self_attn.kv_proj": "attn.wkv",
    "self_attn.o_b_proj": "attn.wo_b", "mlp.shared_experts.gate_proj": "ffn.shared_experts.w1",
    "mlp.shared_experts.down_proj": "ffn.shared_experts.w2", "mlp.shared_experts.up_proj": "ffn.shared_experts.w3",
}  # fmt: skip
"""transformers' modules that may be adapted, and the official names of their matrices."""
LAYER = r"(0|[1-9]\d{0,4})"
NAME = re.compile(rf"base_model\.model\.model\.layers\.{LAYER}\.([a-z_.]+)\.lora_([AB])\.weight")
READ = {"peft_type", "r", "lora_alpha", "use_rslora", "bias"}
WITHOUT_EFFECT = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "megatron_core",
    "qalora_group_size", "runtime_config", "ensure_weight_tying", "target_parameters",
}  # fmt: skip
"""Options that say where matrices are, which their names do too, or that are for training alone."""
ROUTED = ".experts"
ROUTED_NAME = re.compile(
    rf"base_model\.model\.model\.layers\.{LAYER}\.mlp\.experts(\.base_layer)?\.lora_([AB])\.weight"
)
"""Both stacks of a layer's routed experts: PEFT wraps the module once for each, and shapes say which is which."""
PLAIN_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base's weights as they are."""


def read_adapter(
    folder: str | Path, config: ModelConfig, name: str = "", dtype: torch.dtype | None = None
) -> Adapter:  # fmt: skip
    """Returns the adapter in `folder` for a base of this configuration. `name`: the folder's, unless given.

    `dtype`: the matrices are rounded to it; None: they stay as they are, float32 or bfloat16.

    Raises ValueError, before it reads a matrix, for a folder that holds none, for options that would change numbers
    and are not honoured, and for matrices that the base has no place for.
    """
    folder = Path(folder)
    scale, rank = _scale_and_rank(folder / CONFIG_NAME)
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        others = ", ".join(sorted(file.name for file in folder.glob("adapter_model.*")))
        found = f" ({others} cannot be used: only safetensors files are read)" if others else ""
        raise ValueError(f"{folder}: holds no {WEIGHTS_NAME}{found}; expected an adapter in PEFT's layout")
    before, refs = path.stat(), tensor_refs(path)
    pairs = _pairs(path, refs)
    for place, (layer, down, up) in pairs.items():
        _check(path, place, layer, refs[down], refs[up], rank, config)
    parts: dict[str, LowRank] = {}
    with path.open("rb") as file:
        if not os.path.samestat(before, os.fstat(file.fileno())):
            raise ValueError(f"{path}: another file took its place while it was read; load it again")
        for place, (layer, down, up) in sorted(pairs.items()):
            a, b = (_matrix(file, refs[name], dtype) for name in (down, up))
            if not (a.isfinite().all() and b.isfinite().all()):
                kind = "" if dtype is None else f" in {str(dtype).removeprefix('torch.')}"
                raise ValueError(f"{path}: the adapter of {place} has values that are not finite{kind}; make it again")
            if place.endswith(ROUTED):
                routed_parts = _routed_parts(layer, _stack_of(refs[down], refs[up], config), a, b, scale, config)
                if parts.keys() & routed_parts.keys():
                    raise ValueError(f"{path}: adapts one stack of experts of layer {layer} twice; expected it once")
                parts |= routed_parts
            else:
                parts[place] = LowRank(a, b.T.contiguous(), scale)
    routed = any(place.endswith(ROUTED) for place in pairs)
    return Adapter.of(name or folder.name, parts, config.n_routed_experts if routed else 0)


def _matrix(file: BufferedReader, ref: TensorRef, dtype: torch.dtype | None) -> Tensor:
    """Returns a matrix of an open file, in memory of its own."""
    values = torch.empty(ref.shape, dtype=DTYPES[ref.dtype])
    file.seek(ref.offset)
    if file.readinto(values.view(-1).view(torch.uint8).numpy()) != ref.nbytes:  # type: ignore[arg-type]
        raise ValueError(f"{ref.path}: became shorter while it was read; load it again once it is whole")
    return values if dtype is None else values.to(dtype)


def _routed_parts(
    layer: int, names: tuple[str, ...], a: Tensor, b: Tensor, scale: float, config: ModelConfig
) -> dict[str, LowRank]:  # fmt: skip
    """Returns the parts of all experts of a layer, of the matrices of these names, which lie above each other.

    a [experts * rank, in], b [out, rank * experts]: the experts come first in A, and last in B.
    """
    down = a.unflatten(0, (config.n_routed_experts, -1)).contiguous()
    up = b.unflatten(1, (-1, config.n_routed_experts)).permute(2, 1, 0)
    return {
        routed_place(layer, expert, name): LowRank(down[expert], piece[expert].contiguous(), scale)
        for name, piece in zip(names, up.chunk(len(names), -1), strict=True)
        for expert in range(config.n_routed_experts)
    }


def _scale_and_rank(path: Path) -> tuple[float, int]:
    """Returns scale and rank by the options, of which all are honoured or refused."""
    values = _values(path)

    def refused(key: str, allowed: str) -> ValueError:
        return ValueError(f"{path}: {key} = {str(values.get(key))[:80]} is not allowed; expected {allowed}")

    if values.get("peft_type") != "LORA":
        raise refused("peft_type", "LORA")
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= MOST_RANK:
        raise refused("r", f"a whole number from 1 to {MOST_RANK}")
    if type(alpha) not in (int, float) or not abs(alpha) <= LARGEST_ALPHA:  # type: ignore[arg-type]
        raise refused("lora_alpha", f"a number of at most {LARGEST_ALPHA:,}")
    if type(values.get("use_rslora", False)) is not bool:
        raise refused("use_rslora", "true or false")
    if values.get("bias", "none") != "none":
        raise refused("bias", "none")
    beginning = values.get("init_lora_weights", True)
    if beginning is not None and not any(beginning is plain or beginning == plain for plain in PLAIN_BEGINNINGS):
        raise refused("init_lora_weights", "one that leaves the base's weights as they are (true)")
    for key in sorted(values.keys() - READ - WITHOUT_EFFECT - {"init_lora_weights"}):
        if values[key]:
            raise refused(key, "none: adapters are A and B of linear layers, without it")
    return float(alpha) / (rank**0.5 if values.get("use_rslora") else rank), rank  # type: ignore[arg-type]


def _values(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent}: holds no {CONFIG_NAME}; expected an adapter in PEFT's layout")
    if path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes are not allowed; expected {LARGEST_CONFIG:,} at most")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable ({error}); expected JSON") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: is no JSON object; expected PEFT's options by name")
    return values


def _pairs(path: Path, refs: dict[str, TensorRef]) -> dict[str, tuple[int, str, str]]:
    """Returns layer and the names of A and B by the official name of the matrix."""
    found: dict[str, dict[str, str]] = {}
    layers: dict[str, int] = {}
    for name in refs:
        match = ROUTED_NAME.fullmatch(name) or NAME.fullmatch(name)
        if match is None or (match.re is NAME and match[2] not in MODULES):
            raise ValueError(
                f"{path}: {name[:120]} is not allowed; expected lora_A and lora_B of {', '.join(MODULES)} and "
                "mlp.experts in base_model.model.model.layers.N"
            )
        routed = "ffn.base_layer.experts" if match[2] else "ffn.experts"
        module = MODULES[match[2]] if match.re is NAME else routed
        place = f"layers.{int(match[1])}.{module}"
        found.setdefault(place, {})[match[3]] = name
        layers[place] = int(match[1])
    if not found:
        raise ValueError(f"{path}: holds no matrices; expected lora_A and lora_B of some layers")
    for place, names in found.items():
        if len(names) != 2:
            raise ValueError(f"{path}: the adapter of {place} has no lora_{'B' if 'A' in names else 'A'}")
    return {place: (layers[place], names["A"], names["B"]) for place, names in found.items()}


def _check(
    path: Path, place: str, layer: int, down: TensorRef, up: TensorRef, rank: int, config: ModelConfig
) -> None:  # fmt: skip
    if layer >= config.num_hidden_layers:
        raise ValueError(
            f"{path}: holds an adapter of {place}, and the base has {config.num_hidden_layers} layers; expected an "
            "adapter of this base"
        )
    routed = place.endswith(ROUTED)
    many = config.n_routed_experts if routed else 1
    names = _stack_of(down, up, config) if routed else (place.rpartition(".")[2],)
    rows, columns = shapes_of(config)[names[0]]
    rows *= len(names)
    expected = (many * rank, columns), (rows, many * rank)
    if (down.shape, up.shape) != expected:
        raise ValueError(
            f"{path}: the adapter of {place} is {list(down.shape)} and {list(up.shape)}; expected "
            f"{list(expected[0])} and {list(expected[1])}, as in its base and by its rank"
        )
    if down.dtype != up.dtype or down.dtype not in DTYPES:
        raise ValueError(
            f"{path}: the adapter of {place} is of {down.dtype} and {up.dtype}; expected both of {' or '.join(DTYPES)}"
        )


def _stack_of(down: TensorRef, up: TensorRef, config: ModelConfig) -> tuple[str, ...]:
    """Returns what a part of a layer's routed experts adapts: w2, or w1 and w3, which transformers stacks."""
    rows, columns = shapes_of(config)["w2"]
    return ("w2",) if (up.shape[:1], down.shape[1:]) == ((rows,), (columns,)) else ("w1", "w3")


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Returns the shape [out, in] of each matrix that may be adapted, of an expert w1, w2 and w3."""
    hidden, inter = config.hidden_size, config.moe_intermediate_size
    shapes = {
        "wq_a": (config.q_lora_rank, hidden),
        "wq_b": (config.num_attention_heads * config.head_dim, config.q_lora_rank),
        "wkv": (config.head_dim, hidden),
        "wo_b": (hidden, config.o_groups * config.o_lora_rank),
        "w1": (inter, hidden),
        "w2": (hidden, inter),
        "w3": (inter, hidden),
    }
    assert shapes.keys() == PLACES.keys()
    return shapes
