"""The architecture's hyper-parameters, read from an official `config.json`.

`ModelConfig` holds every key of the released DeepSeek-V4 configurations under its own name, checked once and frozen:
the rest of the package trusts it. The presets (`wavefold/presets/*.json`) are such configurations.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavefold import gguf
from wavefold.config.keys import FIXED, LIMIT, QUANTIZATION_CONFIG, SAID_BY, official, require, unknown
from wavefold.config.layers import CSA, HCA, SWA, LayerSpec, check_specs, layer_specs

PRESETS_DIR = Path(__file__).parents[1] / "presets"

EXPERT_DTYPES = ("fp4", "fp8", "bf16")

MOST = {
    "num_hidden_layers": 4096, "n_routed_experts": 16384, "hc_mult": 8, "hc_sinkhorn_iters": 1000,
    "hidden_size": 1 << 20, "num_attention_heads": 1 << 16, "head_dim": 1 << 14, "sliding_window": 1 << 16,
    "index_n_heads": 1 << 16, "index_head_dim": 1 << 10, "index_topk": 1 << 20,
}  # fmt: skip
"""Limits of numbers that become loops or modules: a larger one is a mistake that would take hours to show. And those
of the CPU kernels, which would refuse the first request in place of the file (csrc/block.cpp)."""


@dataclass(frozen=True)
class RopeScaling:
    """YaRN, as the layers with a compressor use it. `original_max_position_embeddings` is in tokens."""

    factor: float = 16.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    original_max_position_embeddings: int = 65536

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(0 < value < LIMIT, f"rope_scaling.{field.name}", value, "a positive number")
        require(self.beta_slow <= self.beta_fast, "rope_scaling.beta_slow", self.beta_slow,
                 f"at most beta_fast = {self.beta_fast}")  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """One model of the DeepSeek-V4 family. Field names and meanings are those of the official `config.json`.

    `compress_ratios` has one entry for each main layer and one for each MTP layer.
    Raises ValueError, naming the key, its value and the allowed values, when the values do not make a model.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    compress_ratios: tuple[int, ...]
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_hash_layers: int
    routed_scaling_factor: float
    sliding_window: int = 128
    num_key_value_heads: int = 1
    n_shared_experts: int = 1
    scoring_func: str = "sqrtsoftplus"
    topk_method: str = "noaux_tc"
    norm_topk_prob: bool = True
    swiglu_limit: float = 10.0
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rms_norm_eps: float = 1e-6
    num_nextn_predict_layers: int = 1
    max_position_embeddings: int = 1048576
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    rope_scaling: RopeScaling | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    bos_token_id: int = 0
    eos_token_id: int | tuple[int, ...] = 1
    torch_dtype: str = "bfloat16"
    expert_dtype: str = "fp4"

    def __post_init__(self) -> None:
        for key in _POSITIVE:
            value = getattr(self, key)
            require(0 < value < LIMIT, key, value, "a positive number below 2^31")
        for key, most in MOST.items():
            require(getattr(self, key) <= most, key, getattr(self, key), f"at most {most}")
        for key in ("num_hash_layers", "num_nextn_predict_layers"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        for key, allowed in FIXED.items():
            require(getattr(self, key) == allowed, key, getattr(self, key), repr(allowed))
        require(self.expert_dtype in EXPERT_DTYPES, "expert_dtype", self.expert_dtype, " or ".join(EXPERT_DTYPES))
        for key in ("hidden_size", "moe_intermediate_size"):
            require(self.expert_dtype != "fp4" or getattr(self, key) % 2 == 0, key, getattr(self, key),
                     "an even number, for two FP4 codes to a byte")  # fmt: skip
        require(bool(self.eos_token_ids), "eos_token_id", [], "one id at least")
        for key, ids in (("bos_token_id", (self.bos_token_id,)), ("eos_token_id", self.eos_token_ids)):
            for token in ids:
                require(0 <= token < self.vocab_size, key, token, f"0 to vocab_size - 1 = {self.vocab_size - 1}")

        num_ratios = self.num_hidden_layers + self.num_nextn_predict_layers
        require(len(self.compress_ratios) == num_ratios, "compress_ratios", list(self.compress_ratios),
                 f"{num_ratios} entries: num_hidden_layers + num_nextn_predict_layers")  # fmt: skip
        for ratio in self.compress_ratios:
            require(ratio in (SWA, CSA, HCA), "compress_ratios", ratio, "0, 4 or 128 in each place")
        # a token that no complete block holds yet is seen through the window alone
        require(self.sliding_window == HCA or not any(self.compress_ratios), "sliding_window", self.sliding_window,
                 f"{HCA} where any layer compresses")  # fmt: skip
        mtp_ratios = list(self.compress_ratios[self.num_hidden_layers :])
        require(
            not any(mtp_ratios),
            "compress_ratios",
            mtp_ratios,
            "0 for the MTP layers, which are the last entries",
        )

        require(self.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", self.qk_rope_head_dim, "an even number")
        require(self.qk_rope_head_dim <= self.head_dim, "qk_rope_head_dim", self.qk_rope_head_dim,
                f"at most head_dim = {self.head_dim}")  # fmt: skip
        require(self.qk_rope_head_dim <= self.index_head_dim, "qk_rope_head_dim", self.qk_rope_head_dim,
                 f"at most index_head_dim = {self.index_head_dim}")  # fmt: skip
        require(self.num_attention_heads % self.o_groups == 0, "o_groups", self.o_groups,
                 f"a divisor of num_attention_heads = {self.num_attention_heads}")  # fmt: skip
        require(self.index_head_dim & (self.index_head_dim - 1) == 0, "index_head_dim", self.index_head_dim,
                 "a power of two (it is rotated by a Hadamard matrix)")  # fmt: skip
        require(self.num_experts_per_tok <= self.n_routed_experts, "num_experts_per_tok", self.num_experts_per_tok,
                 f"at most n_routed_experts = {self.n_routed_experts}")  # fmt: skip
        require(self.num_hash_layers <= self.num_hidden_layers, "num_hash_layers", self.num_hash_layers,
                 f"at most num_hidden_layers = {self.num_hidden_layers}")  # fmt: skip

    # -- derived ---------------------------------------------------------------------------------------------------

    @property
    def nope_head_dim(self) -> int:
        """Width of a head's part that carries no position: the first dims; the last `qk_rope_head_dim` are rotated."""
        return self.head_dim - self.qk_rope_head_dim

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a text: `eos_token_id` is one, or a list of them."""
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def num_blocks(self) -> int:
        """Transformer blocks, MTP included; a block's index is its layer number, MTP after the main layers."""
        return self.num_hidden_layers + self.num_nextn_predict_layers

    @functools.cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The layers' specifications: the main layers, then the MTP layers."""
        return layer_specs(self.compress_ratios, self.num_hash_layers, self.sliding_window)

    @property
    def main_layers(self) -> tuple[LayerSpec, ...]:
        """`layers` without the MTP layers."""
        return self.layers[: self.num_hidden_layers]

    # -- reading and writing ---------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Reads the keys of a `config.json`. Keys without effect are left aside (config/keys.py)."""
        model_type = values.get("model_type", "deepseek_v4")
        require(model_type == "deepseek_v4", "model_type", model_type, "'deepseek_v4'")
        values = official(values)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and values.get(n) is None]
        if missing:
            raise ValueError(f"config: missing {', '.join(missing)}")
        kwargs: dict[str, Any] = {}
        for name, field in fields.items():
            if values.get(name) is not None:
                kwargs[name] = _convert(name, values[name], str(field.type))
        ratios = kwargs["compress_ratios"]
        num_ratios = kwargs["num_hidden_layers"] + kwargs.get("num_nextn_predict_layers", cls.num_nextn_predict_layers)
        if len(ratios) > num_ratios and not any(ratios[num_ratios:]):
            kwargs["compress_ratios"] = ratios[:num_ratios]  # trailing zeros of absent MTP layers
        return cls(**kwargs)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Reads `path`, a `config.json` or a folder that holds one. Raises ValueError for any other file."""
        return read_config(path)[0]

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """One of the presets: nano, flash, pro."""
        names = preset_names()
        require(name in names, "preset", name, ", ".join(names))
        return cls.from_file(PRESETS_DIR / f"{name}.json")

    @classmethod
    def unknown_keys(cls, values: Mapping[str, Any]) -> list[str]:
        """Returns the keys of a `config.json` that are neither read here nor known to have no effect."""
        return unknown(values, frozenset(field.name for field in dataclasses.fields(cls)))

    def replace(self, **changes: Any) -> ModelConfig:
        """Returns a copy with changed keys, checked like a new configuration."""
        return dataclasses.replace(self, **changes)

    def with_layers(self, layers: tuple[LayerSpec, ...]) -> ModelConfig:
        """Returns a copy with these `layers`: another architecture than the keys describe. A further copy loses them.

        Raises ValueError for layers that do not fit together, and unless there is one for each block.
        """
        require(len(layers) == self.num_blocks, "layers", len(layers), f"one for each of {self.num_blocks} blocks")
        check_specs(layers)
        copy = self.replace()
        copy.__dict__["layers"] = layers
        return copy

    def without_entries(self, sliding_window: int) -> ModelConfig:
        """Returns a copy whose layers attend only to a window of `sliding_window` tokens."""
        return self.replace(compress_ratios=(SWA,) * self.num_blocks, sliding_window=sliding_window)

    def without_mtp(self) -> ModelConfig:
        """Returns the configuration without MTP layers."""
        ratios = self.compress_ratios[: self.num_hidden_layers]
        return self.replace(num_nextn_predict_layers=0, compress_ratios=ratios)

    def cut(
        self, num_layers: int | None = None, num_experts: int | None = None, vocab: int | None = None
    ) -> ModelConfig:
        """A slice with the real shapes: the first `num_layers` layers, `num_experts` experts, `vocab` tokens."""
        changes: dict[str, Any] = {}
        if num_layers is not None:
            require(
                0 < num_layers <= self.num_hidden_layers,
                "layers",
                num_layers,
                f"1 to {self.num_hidden_layers}",
            )
            mtp = self.compress_ratios[self.num_hidden_layers :]
            changes |= {"num_hidden_layers": num_layers, "compress_ratios": self.compress_ratios[:num_layers] + mtp,
                        "num_hash_layers": min(self.num_hash_layers, num_layers)}  # fmt: skip
        if num_experts is not None:
            changes |= {"n_routed_experts": num_experts}
        if vocab is not None:
            changes |= {"vocab_size": vocab}
        return self.replace(**changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of an official `config.json` for quantized matrices."""
        values = dataclasses.asdict(self)
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        if values["rope_scaling"] is not None:
            values["rope_scaling"] = {"type": "yarn", **values["rope_scaling"]}
        return {"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", **values,
                "quantization_config": dict(QUANTIZATION_CONFIG)}  # fmt: skip

    def written_over(self, file: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `file`, the keys of the `config.json` that this configuration was read from, with changed values.

        Only values that differ are changed. The transformers' keys of a changed value are removed, so that no two keys
        contradict each other. MTP layers that the file announces and this configuration lacks are no change: the
        file's tensors decide about them.
        """
        read = ModelConfig.from_dict(file)
        before = (read if self.num_nextn_predict_layers else read.without_mtp()).to_dict()
        now = self.to_dict()
        changed = {key: value for key, value in now.items() if value != before[key]}
        left_out = {other for key, others in SAID_BY.items() if key in changed for other in others}
        return {key: value for key, value in file.items() if key not in left_out} | changed


def config_path(path: str | Path) -> Path:
    """Returns `path` if it is a file; for a folder, its `config.json`."""
    return Path(path) / "config.json" if Path(path).is_dir() else Path(path)


def preset_names() -> list[str]:
    """The names of the presets, in alphabetical order."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.json"))


def read_config(path: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Returns the configuration in `path`, a `config.json`, a folder that holds one or a GGUF file, and its keys.

    Raises ValueError, naming the file, where it is no configuration.
    """
    path = config_path(path)
    try:
        values = read_values(path)
        return ModelConfig.from_dict(values), values
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def read_values(path: str | Path) -> dict[str, Any]:
    """Returns the unchecked keys of a `config.json`, or those that a GGUF file stands for.

    Raises ValueError when it is no JSON object.
    """
    path = config_path(path)
    if gguf.is_gguf(path):
        return gguf.config_values(gguf.open_parts(path))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; expected an official config.json") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds {type(values).__name__}, expected a JSON object")
    return values


_POSITIVE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "qk_rope_head_dim",
    "q_lora_rank", "o_groups", "o_lora_rank", "index_n_heads", "index_head_dim", "index_topk", "n_routed_experts",
    "num_experts_per_tok", "moe_intermediate_size", "routed_scaling_factor", "sliding_window", "swiglu_limit",
    "hc_mult", "hc_sinkhorn_iters", "hc_eps", "rms_norm_eps", "max_position_embeddings", "rope_theta",
    "compress_rope_theta", "initializer_range",
)  # fmt: skip


def _convert(key: str, value: Any, kind: str) -> Any:
    """Returns `value` as the field's type, without guessing: a string is not a number, 2.5 is not an integer."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int":
        require(is_number and abs(value) < LIMIT and value == int(value), key, value, "an integer below 2^31")
        return int(value)
    if kind == "float":
        require(is_number and abs(value) < LIMIT, key, value, "a number below 2^31")
        return float(value)
    if kind == "bool":
        require(isinstance(value, bool), key, value, "true or false")
        return value
    if kind == "str":
        require(isinstance(value, str), key, value, "a string")
        return value
    if kind == "int | tuple[int, ...]":
        return _convert(key, value, "tuple[int, ...]" if isinstance(value, (list, tuple)) else "int")
    if kind == "tuple[int, ...]":
        require(isinstance(value, (list, tuple)), key, value, "a list of integers")
        return tuple(_convert(key, item, "int") for item in value)
    assert kind == "RopeScaling | None", kind
    fields = {f.name: f for f in dataclasses.fields(RopeScaling)}
    for name in value:
        require(name in fields, f"{key}.{name}", value[name], f"one of {', '.join(fields)}")
    for name in ("factor", "original_max_position_embeddings"):  # the other two have YaRN's defaults
        require(value.get(name) is not None, f"{key}.{name}", value.get(name), "a number")
    return RopeScaling(
        **{name: _convert(f"{key}.{name}", number, str(fields[name].type)) for name, number in value.items()}
    )
