"""The architecture's hyper-parameters, read from an official `config.json`.

`ModelConfig` holds every key of the released DeepSeek-V4 configurations under its own name, checked once and frozen:
the rest of the package trusts it. The presets (`wavefold/presets/*.json`) are such configurations.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRESETS_DIR = Path(__file__).parents[1] / "presets"

SWA, CSA, HCA = 0, 4, 128
"""Compress ratios, which are also the kinds of attention layer: sliding window alone, 4 tokens to an entry, 128."""

EXPERT_DTYPES = ("fp4", "fp8", "bf16")

LIMIT = 2**31
"""Every number is below this."""


def _require(condition: bool, key: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{key} = {value!r} is not allowed; expected {allowed}")


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
            _require(0 < value < LIMIT, f"rope_scaling.{field.name}", value, "a positive number")
        _require(self.beta_slow <= self.beta_fast, "rope_scaling.beta_slow", self.beta_slow,
                 f"at most beta_fast = {self.beta_fast}")  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """One model of the DeepSeek-V4 family. Field names and meanings are those of the official `config.json`.

    `compress_ratios` has one entry for each main layer and one for each MTP layer.
    Raises ValueError, naming the key, its value and what is allowed, when the values do not make a model.
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
    rope_scaling: RopeScaling = RopeScaling()
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
            _require(0 < value < LIMIT, key, value, "a positive number below 2^31")
        for key in ("num_hash_layers", "num_nextn_predict_layers"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        for key, allowed in _FIXED.items():
            _require(getattr(self, key) == allowed, key, getattr(self, key), repr(allowed))
        _require(self.expert_dtype in EXPERT_DTYPES, "expert_dtype", self.expert_dtype, " or ".join(EXPERT_DTYPES))
        for key in ("hidden_size", "moe_intermediate_size"):
            _require(self.expert_dtype != "fp4" or getattr(self, key) % 2 == 0, key, getattr(self, key),
                     "an even number, for two FP4 codes to a byte")  # fmt: skip
        _require(bool(self.eos_token_ids), "eos_token_id", [], "one id at least")
        for key, ids in (("bos_token_id", (self.bos_token_id,)), ("eos_token_id", self.eos_token_ids)):
            for token in ids:
                _require(0 <= token < self.vocab_size, key, token, f"0 to vocab_size - 1 = {self.vocab_size - 1}")

        num_ratios = self.num_hidden_layers + self.num_nextn_predict_layers
        _require(len(self.compress_ratios) == num_ratios, "compress_ratios", list(self.compress_ratios),
                 f"{num_ratios} entries: num_hidden_layers + num_nextn_predict_layers")  # fmt: skip
        for ratio in self.compress_ratios:
            _require(ratio in (SWA, CSA, HCA), "compress_ratios", ratio, "0, 4 or 128 in each place")
        # a token that no complete block holds yet is seen through the window alone
        _require(self.sliding_window == HCA or not any(self.compress_ratios), "sliding_window", self.sliding_window,
                 f"{HCA} where any layer compresses")  # fmt: skip
        mtp_ratios = list(self.compress_ratios[self.num_hidden_layers :])
        _require(
            not any(mtp_ratios),
            "compress_ratios",
            mtp_ratios,
            "0 for the MTP layers, which are the last entries",
        )

        _require(self.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", self.qk_rope_head_dim, "an even number")
        _require(self.qk_rope_head_dim <= self.head_dim, "qk_rope_head_dim", self.qk_rope_head_dim,
                 f"at most head_dim = {self.head_dim}")  # fmt: skip
        _require(self.qk_rope_head_dim <= self.index_head_dim, "qk_rope_head_dim", self.qk_rope_head_dim,
                 f"at most index_head_dim = {self.index_head_dim}")  # fmt: skip
        _require(self.num_attention_heads % self.o_groups == 0, "o_groups", self.o_groups,
                 f"a divisor of num_attention_heads = {self.num_attention_heads}")  # fmt: skip
        _require(self.index_head_dim & (self.index_head_dim - 1) == 0, "index_head_dim", self.index_head_dim,
                 "a power of two (it is rotated by a Hadamard matrix)")  # fmt: skip
        _require(self.num_experts_per_tok <= self.n_routed_experts, "num_experts_per_tok", self.num_experts_per_tok,
                 f"at most n_routed_experts = {self.n_routed_experts}")  # fmt: skip
        _require(self.num_hash_layers <= self.num_hidden_layers, "num_hash_layers", self.num_hash_layers,
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

    def layers_of(self, ratio: int) -> tuple[int, ...]:
        """The layer numbers (MTP included) whose compress ratio is `ratio`."""
        return tuple(layer for layer, r in enumerate(self.compress_ratios) if r == ratio)

    # -- reading and writing ---------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read the keys of a `config.json`; keys of no concern to the architecture are left aside."""
        model_type = values.get("model_type", "deepseek_v4")
        _require(model_type == "deepseek_v4", "model_type", model_type, "'deepseek_v4'")
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
            kwargs["compress_ratios"] = ratios[:num_ratios]  # trailing zeros of MTP layers that are not there
        _check_quantization(values.get("quantization_config"))
        return cls(**kwargs)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Read `path`, a `config.json` or a folder that holds one. Raises ValueError when it is not one."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file; expected an official config.json") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not a JSON file ({error})") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: holds {type(values).__name__}, expected a JSON object")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """One of the presets: nano, flash, pro."""
        names = sorted(path.stem for path in PRESETS_DIR.glob("*.json"))
        _require(name in names, "preset", name, ", ".join(names))
        return cls.from_file(PRESETS_DIR / f"{name}.json")

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some keys changed, checked like a new one."""
        return dataclasses.replace(self, **changes)

    def cut(
        self, num_layers: int | None = None, num_experts: int | None = None, vocab: int | None = None
    ) -> ModelConfig:
        """A slice with the real shapes: the first `num_layers` layers, `num_experts` experts, `vocab` tokens."""
        changes: dict[str, Any] = {}
        if num_layers is not None:
            _require(
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
        """The content of an official `config.json`."""
        values = dataclasses.asdict(self)
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        values["rope_scaling"] = {"type": "yarn", **values["rope_scaling"]}
        return {"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", **values,
                "quantization_config": QUANTIZATION_CONFIG}  # fmt: skip


QUANTIZATION_CONFIG = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "activation_scheme": "dynamic",
                       "weight_block_size": [128, 128]}  # fmt: skip

_POSITIVE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "qk_rope_head_dim",
    "q_lora_rank", "o_groups", "o_lora_rank", "index_n_heads", "index_head_dim", "index_topk", "n_routed_experts",
    "num_experts_per_tok", "moe_intermediate_size", "routed_scaling_factor", "sliding_window", "swiglu_limit",
    "hc_mult", "hc_sinkhorn_iters", "hc_eps", "rms_norm_eps", "max_position_embeddings", "rope_theta",
    "compress_rope_theta", "initializer_range",
)  # fmt: skip

_FIXED = {
    # One value in the whole family; anything else is another architecture, which this code does not compute.
    "num_key_value_heads": 1, "n_shared_experts": 1, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc",
    "norm_topk_prob": True, "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0,
    "tie_word_embeddings": False,
}  # fmt: skip


def _convert(key: str, value: Any, kind: str) -> Any:
    """`value` as the field's type, without guessing: a string is not a number, 2.5 is not an integer."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int":
        _require(is_number and abs(value) < LIMIT and value == int(value), key, value, "an integer below 2^31")
        return int(value)
    if kind == "float":
        _require(is_number and abs(value) < LIMIT, key, value, "a number below 2^31")
        return float(value)
    if kind == "bool":
        _require(isinstance(value, bool), key, value, "true or false")
        return value
    if kind == "str":
        _require(isinstance(value, str), key, value, "a string")
        return value
    if kind == "int | tuple[int, ...]":
        return _convert(key, value, "tuple[int, ...]" if isinstance(value, (list, tuple)) else "int")
    if kind == "tuple[int, ...]":
        _require(isinstance(value, (list, tuple)), key, value, "a list of integers")
        return tuple(_convert(key, item, "int") for item in value)
    assert kind == "RopeScaling", kind
    _require(isinstance(value, Mapping), key, value, "an object")
    rope_type = value.get("type", value.get("rope_type", "yarn"))
    _require(rope_type == "yarn", f"{key}.type", rope_type, "'yarn'")
    fields = dataclasses.fields(RopeScaling)
    return RopeScaling(
        **{f.name: _convert(f"{key}.{f.name}", value[f.name], str(f.type)) for f in fields if f.name in value}
    )


def _check_quantization(value: Any) -> None:
    if value is None:
        return
    _require(isinstance(value, Mapping), "quantization_config", value, "an object or null")
    for key, allowed in QUANTIZATION_CONFIG.items():
        if key in value:
            _require(value[key] == allowed, f"quantization_config.{key}", value[key], repr(allowed))
