"""The keys of a config.json that a GGUF file stands for: its own keys or, where one is missing, its tensors' shapes.

What holds for every file of the architecture replaces a missing key: `q_lora_rank` is the number of rows of `attn_q_a`.
What no shape tells has the default of `ModelConfig`, or is an error that names the key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wavefold.gguf.parts import Parts
from wavefold.gguf.table import GATING, KEYS, LAYER, NEEDED, PREFIX, official_name

SAMPLING = "general.sampling."
SAMPLING_KEYS = {
    "temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}  # fmt: skip
"""Keys of files after `general.sampling.`, and those of a generation_config.json. Others are not read."""

Derived = Callable[["_Shapes"], Any]


def config_values(parts: Parts) -> dict[str, Any]:
    """Returns the keys of a config.json. MTP layers are left out. Raises ValueError that names the file and the key."""
    shapes = _Shapes(parts)
    values: dict[str, Any] = {"model_type": "deepseek_v4", "num_nextn_predict_layers": 0}
    for key in KEYS:
        name = next((PREFIX + name for name in key.names if PREFIX + name in parts.values), None)
        if name is not None:
            value = _said(parts.path, key.config, name, parts.values[name])
        else:
            value = _derived(key.config, shapes)
        if value is not None:
            values[key.config] = value
        elif key.config in NEEDED or key.config in DERIVED:
            raise ValueError(f"{parts.path}: key {PREFIX}{key.names[0]} is missing, and no tensor tells its value")
    _cut_layers(parts, values)
    values["rope_scaling"] = _yarn(parts)
    for config, name in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        if (token := parts.values.get(f"tokenizer.ggml.{name}_token_id")) is not None:
            values[config] = token
    return values


def _said(path: Path, config: str, name: str, value: Any) -> Any:
    """Returns a key's value as config.json has it. A value for each layer must be the same for all, but for ratios."""
    if isinstance(value, np.ndarray):
        listed = value.tolist()
        if config == "compress_ratios":
            return listed
        if not listed or any(one != listed[0] for one in listed):
            raise ValueError(f"{path}: {name} = {listed[:8]} is not allowed; expected one value for all layers")
        value = listed[0]
    if isinstance(value, list):
        raise ValueError(f"{path}: {name} holds texts; expected a number")
    if config == "scoring_func":
        return GATING.get(value, value)
    return short(value)


def short(value: Any) -> Any:
    """Returns the shortest number that is the same float32: 1e-6, where a file says 9.999999974752427e-07."""
    if not isinstance(value, float) or value != float(np.float32(value)):
        return value
    return float(str(np.float32(value)))


def sampling_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a generation_config.json that a file's keys `general.sampling.*` stand for."""
    return {name: short(values[SAMPLING + key]) for key, name in SAMPLING_KEYS.items() if SAMPLING + key in values}


def _cut_layers(parts: Parts, values: dict[str, Any]) -> None:
    """Leaves MTP layers out, which some files count among their blocks and list among the ratios."""
    layers, mtp = values["num_hidden_layers"], parts.values.get(f"{PREFIX}nextn_predict_layers", 0)
    if type(layers) is not int or type(mtp) is not int or not 0 <= mtp < layers:
        raise ValueError(f"{parts.path}: block_count = {layers!r} with nextn_predict_layers = {mtp!r} is not allowed")
    values["num_hidden_layers"] = layers - mtp
    ratios = values["compress_ratios"]
    if not isinstance(ratios, list) or len(ratios) < layers - mtp:
        raise ValueError(f"{parts.path}: compress_ratios = {ratios!r} is not allowed; expected {layers - mtp} or more")
    values["compress_ratios"] = ratios[: layers - mtp]


def _yarn(parts: Parts) -> dict[str, Any] | None:
    """Returns YaRN's numbers as config.json has them. Names are llama.cpp's, older ones after them."""
    prefix = f"{PREFIX}rope.scaling."
    kind, factor = parts.values.get(f"{prefix}type"), parts.values.get(f"{prefix}factor")
    if kind == "none" or (kind is None and factor is None):
        return None
    if kind not in (None, "yarn"):
        raise ValueError(f"{parts.path}: {prefix}type = {kind!r} is not allowed; expected 'yarn' or 'none'")
    names = {
        "factor": ("factor",),
        "original_max_position_embeddings": ("original_context_length",),
        "beta_fast": ("yarn_beta_fast", "beta_fast"),
        "beta_slow": ("yarn_beta_slow", "beta_slow"),
    }
    found = {
        key: short(parts.values[prefix + name])
        for key, others in names.items()
        for name in others[::-1]
        if prefix + name in parts.values
    }
    return {"type": "yarn", **found}


class _Shapes:
    """Shapes of a file's tensors by their official names."""

    def __init__(self, parts: Parts):
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.layers: list[int] = []
        for name, place in parts.tensors.items():
            if (official := official_name(name)) is not None:
                self._shapes[official] = place.shape
            if found := LAYER.fullmatch(name):
                self.layers.append(int(found[1]))

    def size(self, name: str, dimension: int) -> int:
        """Returns a size of a tensor outside layers, or of the first layer that has it. Raises KeyError for none."""
        if name in self._shapes:
            return self._shapes[name][dimension]
        found = [layer for layer in sorted(set(self.layers)) if f"layers.{layer}.{name}" in self._shapes]
        if not found:
            raise KeyError(name)
        return self._shapes[f"layers.{found[0]}.{name}"][dimension]

    def has(self, layer: int, name: str) -> bool:
        return f"layers.{layer}.{name}" in self._shapes

    def ratio(self, layer: int) -> int:
        """Returns a layer's compression ratio: the rows of its positions' bias; 0 where it has none."""
        return self._shapes.get(f"layers.{layer}.attn.compressor.ape", (0,))[0]


def _groups(shapes: _Shapes) -> int:
    width = shapes.size("attn.attn_sink", 0) * shapes.size("attn.wkv.weight", 0)
    return width // shapes.size("attn.wo_a.weight", -1)


def _hash_layers(shapes: _Shapes) -> int:
    layer = 0
    while shapes.has(layer, "ffn.gate.tid2eid"):
        layer += 1
    return layer


DERIVED: dict[str, Derived] = {
    "vocab_size": lambda shapes: shapes.size("embed.weight", 0),
    "hidden_size": lambda shapes: shapes.size("embed.weight", 1),
    "num_hidden_layers": lambda shapes: max(shapes.layers) + 1,
    "num_attention_heads": lambda shapes: shapes.size("attn.attn_sink", 0),
    "head_dim": lambda shapes: shapes.size("attn.wkv.weight", 0),
    "q_lora_rank": lambda shapes: shapes.size("attn.wq_a.weight", 0),
    "o_groups": _groups,
    "o_lora_rank": lambda shapes: shapes.size("attn.wo_b.weight", 1) // _groups(shapes),
    "compress_ratios": lambda shapes: [shapes.ratio(layer) for layer in range(max(shapes.layers) + 1)],
    "index_n_heads": lambda shapes: shapes.size("attn.indexer.weights_proj.weight", 0),
    "index_head_dim": lambda shapes: shapes.size("attn.indexer.compressor.norm.weight", 0),
    "n_routed_experts": lambda shapes: shapes.size("ffn.gate.weight", 0),
    "num_experts_per_tok": lambda shapes: shapes.size("ffn.gate.tid2eid", 1),
    "moe_intermediate_size": lambda shapes: shapes.size("ffn.shared_experts.w1.weight", 0),
    "num_hash_layers": _hash_layers,
    "hc_mult": lambda shapes: shapes.size("hc_head_base", 0),
}
"""Keys of config.json by the shapes that tell them."""


def _derived(config: str, shapes: _Shapes) -> Any:
    if config not in DERIVED:
        return None
    with contextlib.suppress(KeyError, ValueError, ZeroDivisionError, IndexError):
        return DERIVED[config](shapes)
    return None
