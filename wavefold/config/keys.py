"""The meaning of the keys of a `config.json`. Three kinds are read beside the fields of `ModelConfig`:

    transformers' keys     other names for official keys; `official` translates them
    fixed keys             have one value in the whole family; anything else is another architecture
    keys without effect    are accepted and change nothing here; WITHOUT_EFFECT says why

Every other key is unknown: `unknown` names them, and a load tells the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wavefold.config.layers import CSA, HCA, SWA

LIMIT = 2**31
"""Every number is below this."""

LAYER_TYPES = {"sliding_attention": SWA, "compressed_sparse_attention": CSA, "heavily_compressed_attention": HCA}
"""transformers' names of the kinds of attention layer."""

QUANTIZATION_CONFIG = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "activation_scheme": "dynamic",
                       "weight_block_size": [128, 128]}  # fmt: skip
"""The one way in which the family's matrices are quantized."""

FIXED = {
    "num_key_value_heads": 1, "n_shared_experts": 1, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc",
    "norm_topk_prob": True, "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0,
    "tie_word_embeddings": False,
}  # fmt: skip
"""Fields of `ModelConfig` with one value in the whole family."""

FIXED_ELSEWHERE: dict[str, Any] = {
    "mlp_bias": False, "output_router_logits": False, "router_jitter_noise": 0.0, "is_encoder_decoder": False,
    "is_decoder": False, "add_cross_attention": False, "cross_attention_hidden_size": None, "pruned_heads": {},
    "chunk_size_feed_forward": 0,
}  # fmt: skip
"""transformers' keys that change the computation unless they have these values."""

WITHOUT_EFFECT = {
    # fields of ModelConfig
    "initializer_range": "first weights are scaled by the widths of their matrices (train/start.py)",
    "bos_token_id": "the tokenizer's own BOS begins a text",
    "torch_dtype": "each tensor's own dtype says how it is read; activations are chosen when a model is loaded",
    # others
    "dtype": "transformers' name of torch_dtype",
    "architectures": "names the class of another program",
    "auto_map": "names code of another program; nothing from a checkpoint is run",
    "transformers_version": "names another program's version",
    "_name_or_path": "names where another program read the model",
    "_attn_implementation": "chooses a kernel of another program",
    "use_cache": "this program always keeps a cache where it decodes",
    "pad_token_id": "sequences are packed, never padded",
    "sep_token_id": "no such token is used", "decoder_start_token_id": "no such token is used",
    "router_aux_loss_coef": "a run's recipe sets the weight of the balance loss",
    "ep_size": "experts are shared out by flags", "pretraining_tp": "nothing is sharded by it",
    "output_attentions": "attention weights are never kept", "output_hidden_states": "hidden states are never kept",
    "return_dict": "an interface of another program", "torchscript": "an interface of another program",
    "id2label": "labels of classifiers", "label2id": "labels of classifiers", "problem_type": "a kind of classifier",
    "finetuning_task": "a note", "task_specific_params": "a note", "tokenizer_class": "tokenizer.json says all",
    "prefix": "prompts are built from messages", "num_local_experts": "checked against n_routed_experts",
    "intermediate_size": "checked against moe_intermediate_size", "seq_aux": "V3's balance loss, absent in V4",
    "aux_loss_alpha": "V3's balance loss, absent in V4",
}  # fmt: skip
"""Keys that are accepted and change nothing here, each with the reason."""

WITHOUT_EFFECT_PREFIXES = {"dspark_": "the drafter of later releases, which the text model does not need"}
"""Prefixes of further keys that change nothing here, each with the reason."""

TRANSFORMERS_KEYS = (
    "rope_parameters", "layer_types", "mlp_layer_types", "compress_rates", "compress_rate_csa", "compress_rate_hca",
    "partial_rotary_factor",
)  # fmt: skip
"""Keys that `official` translates to official keys."""

SAID_BY = {
    "rope_scaling": ("rope_parameters",), "rope_theta": ("rope_parameters",),
    "compress_rope_theta": ("rope_parameters",), "num_hash_layers": ("mlp_layer_types",),
    "compress_ratios": ("layer_types",), "num_hidden_layers": ("layer_types", "mlp_layer_types"),
    "qk_rope_head_dim": ("partial_rotary_factor", "rope_parameters"),
    "head_dim": ("partial_rotary_factor", "rope_parameters"), "n_routed_experts": ("num_local_experts",),
    "moe_intermediate_size": ("intermediate_size",), "torch_dtype": ("dtype",),
}  # fmt: skip
"""For each official key, the transformers' keys that have the same meaning."""

ROPE_FIXED = {"attention_factor": 1.0, "truncate": True}
"""YaRN's keys that have one value in V4."""


def require(condition: bool, key: str, value: Any, allowed: str) -> None:
    """Raises ValueError, naming key, value and the allowed values, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{key} = {value!r} is not allowed; expected {allowed}")


def unknown(values: Mapping[str, Any], fields: frozenset[str]) -> list[str]:
    """Returns the keys of `values` that nothing here reads. `fields`: the field names of `ModelConfig`."""
    known = fields | WITHOUT_EFFECT.keys() | FIXED_ELSEWHERE.keys() | set(TRANSFORMERS_KEYS)
    known |= {"model_type", "quantization_config"}
    return sorted(key for key in values if key not in known and not key.startswith(tuple(WITHOUT_EFFECT_PREFIXES)))


def official(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `values` with transformers' keys translated to official keys.

    Raises ValueError for a transformers' key that contradicts an official key or has no meaning in V4.
    """
    said = {key: value for key, value in values.items() if key not in TRANSFORMERS_KEYS}
    for key, allowed in FIXED_ELSEWHERE.items():
        require(values.get(key) in (None, allowed), key, values.get(key), repr(allowed))
    for key, same in (("num_local_experts", "n_routed_experts"), ("intermediate_size", "moe_intermediate_size")):
        require(values.get(key) in (None, values.get(same)), key, values.get(key), f"{same} = {values.get(same)!r}")
    _rope(values, said)
    _kinds_of_layers(values, said)
    _quantization(values, said)
    factor, head_dim = values.get("partial_rotary_factor"), values.get("head_dim")
    if factor is not None:
        sizes = [value for value in (factor, head_dim) if isinstance(value, (int, float)) and 0 < value < LIMIT]
        require(len(sizes) == 2, "partial_rotary_factor", factor, "a number, beside head_dim")
        _say(said, "qk_rope_head_dim", int(sizes[0] * sizes[1]), "partial_rotary_factor", factor)
    return said


def _say(said: dict[str, Any], key: str, value: Any, source: str, shown: Any) -> None:
    """Sets an official key to the meaning of `source` = `shown`. Raises ValueError where it has another value."""
    if said.get(key) not in (None, value):
        raise ValueError(
            f"{source} = {shown!r} is not allowed beside {key} = {said[key]!r}; it says {value!r}, expected the same "
            f"({key} alone is enough)"
        )
    said[key] = value


def _kinds_of_layers(values: Mapping[str, Any], said: dict[str, Any]) -> None:
    """Translates layer_types, mlp_layer_types and compress_rates to compress_ratios and num_hash_layers."""
    rates = values.get("compress_rates")
    require(rates is None or isinstance(rates, Mapping), "compress_rates", rates, "an object")
    rates = {
        "compressed_sparse_attention": values.get("compress_rate_csa"),
        "heavily_compressed_attention": values.get("compress_rate_hca"),
        **(rates or {}),
    }
    for name, rate in rates.items():
        ratio = LAYER_TYPES.get(name)
        require(bool(ratio) and rate in (None, ratio), f"compress_rates.{name}", rate,
                "4 for compressed_sparse_attention and 128 for heavily_compressed_attention (official key: "
                "compress_ratios)")  # fmt: skip
    kinds = values.get("layer_types")
    if kinds is not None:
        require(isinstance(kinds, list), "layer_types", kinds, "a list of names")
        for kind in kinds:
            require(isinstance(kind, str) and kind in LAYER_TYPES, "layer_types", kind,
                    f"{', '.join(LAYER_TYPES)} in each place (official key: compress_ratios)")  # fmt: skip
        _check_length("layer_types", kinds, values)
        ratios, listed = [LAYER_TYPES[kind] for kind in kinds], values.get("compress_ratios")
        if isinstance(listed, (list, tuple)):
            rest = list(listed)[len(ratios) :]
            _say(said, "compress_ratios", [*ratios, *rest], "layer_types", kinds)
        else:  # transformers has no MTP layers; an MTP layer's ratio is a window's
            layers = values.get("num_nextn_predict_layers")
            said["compress_ratios"] = [*ratios, *[SWA] * (layers if isinstance(layers, int) and layers < 2**10 else 1)]
    kinds = values.get("mlp_layer_types")
    if kinds is not None:
        hashed = kinds.count("hash_moe") if isinstance(kinds, list) else 0
        fits = isinstance(kinds, list) and kinds == ["hash_moe"] * hashed + ["moe"] * (len(kinds) - hashed)
        require(fits, "mlp_layer_types", kinds,
                "'hash_moe' for the first layers, then 'moe' (official key: num_hash_layers)")  # fmt: skip
        _check_length("mlp_layer_types", kinds, values)
        _say(said, "num_hash_layers", hashed, "mlp_layer_types", kinds)


def _check_length(key: str, kinds: list[Any], values: Mapping[str, Any]) -> None:
    layers = values.get("num_hidden_layers")
    require(len(kinds) == layers, key, kinds, f"one name for each layer: num_hidden_layers = {layers!r}")


def _rope(values: Mapping[str, Any], said: dict[str, Any]) -> None:
    """Checks rope_scaling, and translates rope_parameters to rope_scaling (YaRN's object or None) and the bases."""
    scaling, parameters = values.get("rope_scaling"), values.get("rope_parameters")
    if scaling is not None:
        said["rope_scaling"] = _yarn(scaling, "rope_scaling")
    if parameters is None:
        return
    require(isinstance(parameters, Mapping), "rope_parameters", parameters, "an object")
    parts = {"compress": parameters}
    if "main" in parameters or "compress" in parameters:
        parts = {name: parameters.get(name) for name in ("main", "compress")}
        for name, part in parts.items():
            require(isinstance(part, Mapping), f"rope_parameters.{name}", part, "an object")
        if parts["compress"].get("rope_type", parts["compress"].get("type")) == "yarn":
            factor = parts["compress"].get("attention_factor")
            require(factor == 1, "rope_parameters.compress.attention_factor", factor,
                    "1.0: without it transformers multiplies by YaRN's own factor, which V4 does not")  # fmt: skip
        kind = parts["main"].get("rope_type", "default")
        require(kind == "default", "rope_parameters.main.rope_type", kind, "'default': windows are never scaled")
        for name, key in (("main", "rope_theta"), ("compress", "compress_rope_theta")):
            base, factor = parts[name].get("rope_theta"), parts[name].get("partial_rotary_factor")
            if base is not None:
                _say(said, key, base, f"rope_parameters.{name}.rope_theta", base)
            fits = factor in (None, values.get("partial_rotary_factor", factor))
            require(fits, f"rope_parameters.{name}.partial_rotary_factor", factor, "partial_rotary_factor's value")
    elif parameters.get("rope_theta") is not None:
        bases = (values.get("rope_theta"), values.get("compress_rope_theta"))
        require(parameters["rope_theta"] in bases, "rope_parameters.rope_theta", parameters["rope_theta"],
                "rope_theta or compress_rope_theta, which are the official keys")  # fmt: skip
    yarn = _yarn(parts["compress"], "rope_parameters")
    if scaling is not None and yarn != said["rope_scaling"]:
        raise ValueError(
            f"rope_parameters = {parameters!r} is not allowed beside rope_scaling = {scaling!r}; expected the same "
            "(rope_scaling alone is enough)"
        )
    said["rope_scaling"] = yarn


def _yarn(scaling: Any, key: str) -> dict[str, Any] | None:
    """Returns YaRN's numbers from an object that names its type, or None where the type is no scaling."""
    require(isinstance(scaling, Mapping), key, scaling, "an object")
    kinds = {scaling[name] for name in ("type", "rope_type") if isinstance(scaling.get(name), str)}
    if len(kinds) != 1 or not kinds <= {"yarn", "default"}:
        shown = scaling.get("type", scaling.get("rope_type"))
        require(False, f"{key}.type", shown, "'yarn', or 'default' for no scaling (official key: rope_scaling)")
    if kinds == {"default"}:
        return None
    others = {"type", "rope_type", "rope_theta", "partial_rotary_factor", *ROPE_FIXED}
    for name, allowed in ROPE_FIXED.items():
        require(scaling.get(name) in (None, allowed), f"{key}.{name}", scaling.get(name), repr(allowed))
    return {name: value for name, value in scaling.items() if name not in others}


def _quantization(values: Mapping[str, Any], said: dict[str, Any]) -> None:
    """Checks quantization_config: the family's, or none. It may name the experts' format."""
    quantization = values.get("quantization_config")
    if quantization is None:
        return
    require(isinstance(quantization, Mapping), "quantization_config", quantization, "an object or null")
    for key, allowed in QUANTIZATION_CONFIG.items():
        if key in quantization:
            require(quantization[key] == allowed, f"quantization_config.{key}", quantization[key], repr(allowed))
    if quantization.get("expert_dtype") is not None:
        form = quantization["expert_dtype"]
        _say(said, "expert_dtype", form, "quantization_config.expert_dtype", form)
