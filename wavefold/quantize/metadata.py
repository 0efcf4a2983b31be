"""The keys of a GGUF file of this architecture: the configuration and the tokenizer.

They are the keys that llama.cpp's converter writes, with the same kinds and values, but for the chat template: a
checkpoint without one gets V4's encoding of texts (chat/tokenizer_config.py). Source: llama.cpp, conversion/deepseek.py
and conversion/base.py (commit 0c1e57098).
"""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any

from wavefold.chat import tokenizer_config
from wavefold.checkpoint.write_gguf import Value
from wavefold.config import COMPRESSIONS, ModelConfig
from wavefold.gguf.parts import ARCHITECTURE
from wavefold.gguf.vocabulary import CONTROL, NORMAL, PRE, SPLITS, UNUSED, USER_DEFINED
from wavefold.system import Notice

QUANTIZATION_VERSION = 2
SQRT_SOFTPLUS = 4
WHOLE = "tokenizer.huggingface.json"
RATIOS = (0, *(compression.ratio for compression in COMPRESSIONS))


def model_keys(config: ModelConfig, name: str, file_type: int) -> dict[str, Value]:
    """Returns the keys of a configuration. `name`: of the model; `file_type`: llama.cpp's number for it.

    Raises ValueError for compression ratios that llama.cpp lacks.
    """
    if other := sorted({spec.ratio for spec in config.main_layers} - set(RATIOS)):
        raise ValueError(f"compress ratios {other} are not allowed; llama.cpp has {list(RATIOS)}")
    layers = config.num_hidden_layers
    shaped: dict[str, Value] = {
        "block_count": Value("u32", layers),
        "context_length": Value("u32", config.max_position_embeddings),
        "embedding_length": Value("u32", config.hidden_size),
        "attention.head_count": Value("u32", config.num_attention_heads),
        "attention.head_count_kv": Value("u32", 1),
        **_rope_keys(config),
        "attention.layer_norm_rms_epsilon": Value("f32", config.rms_norm_eps),
        "expert_count": Value("u32", config.n_routed_experts),
        "expert_used_count": Value("u32", config.num_experts_per_tok),
        "expert_gating_func": Value("u32", SQRT_SOFTPLUS),
        "attention.key_length": Value("u32", config.head_dim),
        "attention.value_length": Value("u32", config.head_dim),
        "rope.dimension_count": Value("u32", config.qk_rope_head_dim),
        "attention.q_lora_rank": Value("u32", config.q_lora_rank),
        "attention.sliding_window": Value("u32", config.sliding_window),
        "expert_feed_forward_length": Value("u32", config.moe_intermediate_size),
        "expert_shared_count": Value("u32", 1),
        "expert_weights_scale": Value("f32", config.routed_scaling_factor),
        "expert_weights_norm": Value("bool", True),
        "swiglu_clamp_exp": Value("f32", [config.swiglu_limit] * layers),
        "swiglu_clamp_shexp": Value("f32", [config.swiglu_limit] * layers),
        "attention.indexer.head_count": Value("u32", config.index_n_heads),
        "attention.indexer.key_length": Value("u32", config.index_head_dim),
        "attention.indexer.top_k": Value("u32", config.index_topk),
        "attention.output_group_count": Value("u32", config.o_groups),
        "attention.output_lora_rank": Value("u32", config.o_lora_rank),
        "attention.compress_ratios": Value("i32", [spec.ratio for spec in config.layers]),
        "attention.compress_rope_freq_base": Value("f32", config.compress_rope_theta),
        "hyper_connection.count": Value("u32", config.hc_mult),
        "hyper_connection.sinkhorn_iterations": Value("u32", config.hc_sinkhorn_iters),
        "hyper_connection.epsilon": Value("f32", config.hc_eps),
        "hash_layer_count": Value("u32", sum(spec.hashed for spec in config.main_layers)),
        "embedding_length_out": Value("u32", config.hidden_size * config.hc_mult),
    }
    return {
        "general.architecture": Value("string", ARCHITECTURE),
        "general.type": Value("string", "model"),
        "general.name": Value("string", name),
        "general.file_type": Value("u32", file_type),
        "general.quantization_version": Value("u32", QUANTIZATION_VERSION),
        **{f"{ARCHITECTURE}.{key}": value for key, value in shaped.items()},
    }


def _rope_keys(config: ModelConfig) -> dict[str, Value]:
    keys = {"rope.freq_base": Value("f32", config.rope_theta)}
    if (scaling := config.rope_scaling) is not None:
        keys |= {
            "rope.scaling.type": Value("string", "yarn"),
            "rope.scaling.factor": Value("f32", scaling.factor),
            "rope.scaling.original_context_length": Value("u32", scaling.original_max_position_embeddings),
            "rope.scaling.yarn_beta_fast": Value("f32", scaling.beta_fast),
            "rope.scaling.yarn_beta_slow": Value("f32", scaling.beta_slow),
        }
    return keys


@functools.lru_cache(1)
def tokenizer_keys(folder: Path, vocab_size: int) -> dict[str, Value]:
    """Returns the keys of the tokenizer in a checkpoint folder, and of numbered tokens ("<7>") where it has none.

    A Notice tells of the latter, and of a tokenizer that cuts texts otherwise than DeepSeek's: llama.cpp knows
    expressions by name, so that its ids of texts differ then. The whole tokenizer.json is a key in such a file, for
    readers that take it, as we do. Raises ValueError for a file that is no byte-level BPE.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        warnings.warn(
            f"{folder}: has no tokenizer.json; the file names tokens by number, for ids alone", Notice, stacklevel=2
        )
        tokens = [f"<{number}>" for number in range(vocab_size)]
        return _vocabulary(tokens, [NORMAL] * vocab_size, ["< 0"], "default")
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        tokens, kinds = _tokens(values, vocab_size)
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in values["model"]["merges"]]
        cuts = [part for part in _pre_tokenizers(values["pre_tokenizer"]) if part.get("type") == "Split"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no byte-level BPE ({error!r}); expected DeepSeek's kind of tokenizer") from None
    keys = _vocabulary(tokens, kinds, merges, PRE[0]) | _special_keys(folder, tokens)
    if len(cuts) < 2 or cuts[0].get("pattern", {}).get("Regex") != SPLITS[0]:
        warnings.warn(
            f"{path}: cuts texts otherwise than DeepSeek's tokenizers; llama.cpp has no name for it and will cut as "
            "deepseek-v3: the same texts, other ids there",
            Notice,
            stacklevel=2,
        )
        keys[WHOLE] = Value("string", text)
    return keys


def _pre_tokenizers(value: dict[str, Any] | None) -> list[dict[str, Any]]:
    if value is None:
        return []
    parts: list[dict[str, Any]] = value.get("pretokenizers", [value])
    return parts


def _tokens(values: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """Returns the tokens by id, and their kinds. Raises ValueError for more than `vocab_size`."""
    by_id = {number: token for token, number in values["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in values["added_tokens"]}
    by_id |= {number: entry["content"] for number, entry in added.items()}
    if max(by_id) >= vocab_size:
        raise ValueError(f"token id {max(by_id)}; the model has a vocabulary of {vocab_size}")
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(vocab_size)]
    kinds = [NORMAL if number in by_id else UNUSED for number in range(vocab_size)]
    for number, entry in added.items():
        token = entry["content"]
        special = entry["special"] or (token.startswith("<｜") and token.endswith("｜>")) or token == "<pad>"
        kinds[number] = CONTROL if special else USER_DEFINED
        if not special:
            tokens[number] = token.replace("▁", " ")
    return tokens, kinds


def _vocabulary(tokens: list[str], kinds: list[int], merges: list[str], cut: str) -> dict[str, Value]:
    return {
        "tokenizer.ggml.model": Value("string", "gpt2"),
        "tokenizer.ggml.pre": Value("string", cut),
        "tokenizer.ggml.tokens": Value("string", tokens),
        "tokenizer.ggml.token_type": Value("i32", kinds),
        "tokenizer.ggml.merges": Value("string", merges),
    }


def _special_keys(folder: Path, tokens: list[str]) -> dict[str, Value]:
    """Returns the ids of special tokens, what is added to texts, and the chat template."""
    path = folder / tokenizer_config.FILE_NAME
    values = json.loads(tokenizer_config.tokenizer_config(tokens))
    if path.is_file():
        values = {"chat_template": values.get("chat_template")} | json.loads(path.read_text(encoding="utf-8"))
    keys: dict[str, Value] = {}
    ids = {token: number for number, token in enumerate(tokens)}
    for key, name in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        token = values.get(key)
        token = token["content"] if isinstance(token, dict) else token
        if token in ids:
            keys[f"tokenizer.ggml.{name}_token_id"] = Value("u32", ids[token])
    for name in ("bos", "eos"):
        keys[f"tokenizer.ggml.add_{name}_token"] = Value("bool", bool(values.get(f"add_{name}_token", False)))
    if values.get("chat_template"):
        keys["tokenizer.chat_template"] = Value("string", values["chat_template"])
    return keys
