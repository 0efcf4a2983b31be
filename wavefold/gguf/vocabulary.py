"""A file's vocabulary as the texts of a tokenizer.json and a tokenizer_config.json.

    tokenizer.huggingface.json   is the first of them, where a file has it
    tokenizer.ggml.*             tokens and merges of a byte-level BPE; how text is split first has a name, `pre`

The template of chats is kept as a text in the second one: it is a program, and nothing of a file is executed here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
"""How DeepSeek-V3's tokenizer and its successors split text, one after another."""
PRE = ("deepseek-v3", "joyai-llm")
"""GGUF's names of such splits: the second is that of another model with the same expressions."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens. Those of other types than normal and unused ones stand outside the merges."""


def tokenizer_texts(path: Path, values: dict[str, Any]) -> tuple[str, str]:
    """Returns the texts of tokenizer.json and tokenizer_config.json for a file's keys.

    Raises ValueError, naming the file and the key, for a vocabulary that is missing, of another kind, or damaged.
    """
    whole = values.get("tokenizer.huggingface.json")
    if whole is not None and not isinstance(whole, str):
        raise ValueError(f"{path}: tokenizer.huggingface.json is no text")
    if whole is None:
        whole = json.dumps(_tokenizer(path, values), ensure_ascii=False)
    return whole, json.dumps(_config(path, values), indent=1, ensure_ascii=False) + "\n"


def _tokenizer(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    kind, pre = values.get("tokenizer.ggml.model", "gpt2"), values.get("tokenizer.ggml.pre", PRE[0])
    if kind != "gpt2":
        raise ValueError(f"{path}: tokenizer.ggml.model = {kind!r} is not allowed; expected 'gpt2', a byte-level BPE")
    if pre not in PRE:
        raise ValueError(f"{path}: tokenizer.ggml.pre = {pre!r} is not known; expected {' or '.join(map(repr, PRE))}")
    tokens, merges = _texts(path, values, "tokenizer.ggml.tokens"), _texts(path, values, "tokenizer.ggml.merges")
    pairs = [merge.split(" ") for merge in merges]
    if odd := next((merge for merge, pair in zip(merges, pairs, strict=True) if len(pair) != 2), None):
        raise ValueError(f"{path}: tokenizer.ggml.merges holds {odd!r}; expected two tokens and a blank between them")
    kinds = _kinds(path, values, tokens, pairs)
    # added tokens are in it too: those that are not get other ids from the library than the file's
    vocabulary = {token: number for number, token in enumerate(tokens) if kinds[number] != UNUSED}
    if len(vocabulary) != len(tokens) - kinds.count(UNUSED):
        raise ValueError(f"{path}: tokenizer.ggml.tokens holds a text twice; expected each once")
    if odd_pair := next((pair for pair in pairs if not vocabulary.keys() >= {*pair, "".join(pair)}), None):
        raise ValueError(f"{path}: tokenizer.ggml.merges joins {odd_pair}, of which the vocabulary lacks a token")
    added = [
        {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": kinds[number] == CONTROL}
        for number, token in enumerate(tokens) if kinds[number] not in (NORMAL, UNUSED)
    ]  # fmt: skip
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        for expression in SPLITS
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, level]}, "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": pairs},
    }  # fmt: skip


def _texts(path: Path, values: dict[str, Any], key: str) -> list[str]:
    found = values.get(key)
    if not isinstance(found, list):
        raise ValueError(f"{path}: holds no {key}, a list of texts; give token ids in place of text")
    return found


def _kinds(path: Path, values: dict[str, Any], tokens: list[str], pairs: list[list[str]]) -> list[int]:
    """Returns the types of tokens. Without them, a token is normal if it is one byte, or if a merge makes it."""
    kinds = values.get("tokenizer.ggml.token_type")
    if kinds is None:
        products = {"".join(pair) for pair in pairs}
        return [NORMAL if len(token) == 1 or token in products else CONTROL for token in tokens]
    if not isinstance(kinds, np.ndarray) or kinds.dtype.kind not in "iu":
        shown = f"{kinds.dtype} numbers" if isinstance(kinds, np.ndarray) else type(kinds).__name__
        raise ValueError(
            f"{path}: tokenizer.ggml.token_type is of another kind ({shown}); expected an array of integers, one for "
            "each token; convert the file again"
        )
    if len(kinds) != len(tokens):
        raise ValueError(f"{path}: tokenizer.ggml.token_type has {len(kinds):,} entries for {len(tokens):,} tokens")
    listed: list[int] = kinds.tolist()
    return listed


def _config(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The keys of tokenizer_config.json, as far as the file says them."""
    tokens = _texts(path, values, "tokenizer.ggml.tokens") if "tokenizer.ggml.tokens" in values else []
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(values.get("tokenizer.ggml.add_bos_token", False)),
        "add_eos_token": bool(values.get("tokenizer.ggml.add_eos_token", False)),
        "clean_up_tokenization_spaces": False,
    }
    for key, name in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        number = values.get(f"tokenizer.ggml.{name}_token_id")
        if type(number) is int and 0 <= number < len(tokens):
            config[key] = tokens[number]
    if isinstance(template := values.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    return config
