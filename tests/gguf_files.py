"""GGUF files for tests: one that llama.cpp's converter wrote, and others that the gguf package writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from wavefold import ModelConfig, random_checkpoint
from wavefold.chat import train_tokenizer
from wavefold.config import RopeScaling

TINY = Path(__file__).parent / "vectors" / "gguf" / "tiny.gguf"
CONFIG = ModelConfig(
    vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=32, qk_rope_head_dim=16,
    q_lora_rank=32, o_groups=2, o_lora_rank=32, compress_ratios=(4, 128), index_n_heads=1, index_head_dim=32,
    index_topk=8, n_routed_experts=3, num_experts_per_tok=2, moe_intermediate_size=32, num_hash_layers=1,
    routed_scaling_factor=1.5, num_nextn_predict_layers=0, rope_scaling=RopeScaling(),
)  # fmt: skip
"""The model in TINY."""
TEXTS = [*["def add(a, b):\n    return a + b\n"] * 3, *["the value of the sum is here and there\n"] * 3]
"""What TINY's tokenizer was trained on."""
WIDE = CONFIG.replace(hidden_size=256, moe_intermediate_size=256, q_lora_rank=256, o_lora_rank=128, head_dim=256)
"""CONFIG with rows of whole blocks of 256."""


def official_folder(folder: Path) -> Path:
    """Writes the model of TINY in the official layout."""
    random_checkpoint(CONFIG, folder, seed=7)
    train_tokenizer(TEXTS, CONFIG.vocab_size).save(folder)
    return folder


def tensors_of(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """The type and bytes [..., bytes of a row] of each tensor of a file, by the gguf package."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = gguf.quant_shape_to_byte_shape([int(n) for n in reversed(tensor.shape)], tensor.tensor_type)
        kind = tensor.tensor_type.name
        data = np.array(tensor.data)
        found[tensor.name] = kind, data.reshape(shape) if kind not in ("F32", "F16", "I32") else data
    return found


def values_of(kind: str, data: np.ndarray) -> np.ndarray:
    """Bytes of a type as float32, by the gguf package."""
    return data if kind == "I32" else gguf.dequantize(data, gguf.GGMLQuantizationType[kind])


def as_type(kind: str, values: np.ndarray) -> tuple[str, np.ndarray]:
    """Values in a type that the gguf package quantizes."""
    return kind, gguf.quantize(np.ascontiguousarray(values, np.float32), gguf.GGMLQuantizationType[kind])


def random_blocks(kind: str, rows: int, columns: int, seed: int) -> tuple[str, np.ndarray]:
    """Random bytes of a type, with scales from 2^-10 to 2^-6."""
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows, columns // values, size), np.uint8)
    at = {"Q8_0": [0], "Q6_K": [208], "Q5_K": [0, 2], "Q4_K": [0, 2], "Q3_K": [108], "Q2_K": [80, 82]}.get(kind, [0])
    for place in at:
        if kind == "MXFP4":
            blocks[..., 0] = rng.integers(118, 122, blocks.shape[:2])
        else:
            blocks[..., place + 1] = rng.integers(0x14, 0x24, blocks.shape[:2])
    return kind, blocks.reshape(rows, -1)


def keys_of(path: Path) -> dict[str, tuple[Any, gguf.GGUFValueType, gguf.GGUFValueType | None]]:
    """The keys of a file with their types, by the gguf package."""
    found = {}
    for key, field in gguf.GGUFReader(path).fields.items():
        if key.startswith("GGUF."):
            continue
        found[key] = field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None
    return found


def write(
    path: Path, keys: Mapping[str, tuple[Any, Any, Any]], tensors: Mapping[str, tuple[str, np.ndarray]],
    architecture: str = "deepseek4", **split: int
) -> Path:  # fmt: skip
    """Writes a file with the gguf package. Raw bytes have the shape of bytes."""
    writer = gguf.GGUFWriter(path, architecture, **split)
    for key, (value, kind, inner) in keys.items():
        if key != "general.architecture":
            writer.add_key_value(key, value, kind, inner)
    for name, (kind, data) in tensors.items():
        of = gguf.GGMLQuantizationType[kind]
        if kind in ("F32", "F16", "I32"):
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, np.ascontiguousarray(data).view(np.uint8), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rewritten(
    source: Path, path: Path, kind_of: Callable[[str, str], str] = lambda name, kind: kind,
    keep: Callable[[str], bool] = lambda key: True, add: Mapping[str, tuple[Any, Any, Any]] | None = None,
    rename: Callable[[str], str] = lambda name: name,
) -> Path:  # fmt: skip
    """A copy of a file with other types, keys and names."""
    keys = {key: value for key, value in keys_of(source).items() if keep(key)} | dict(add or {})
    tensors = {}
    for name, (kind, data) in tensors_of(source).items():
        to = kind_of(name, kind)
        tensors[rename(name)] = (kind, data) if to == kind else as_type(to, values_of(kind, data))
    return write(path, keys, tensors)


def number(value: int) -> tuple[int, gguf.GGUFValueType, None]:
    return value, gguf.GGUFValueType.UINT32, None


def ds4_type(name: str, kind: str) -> str:
    """The types of ds4's own files: F16 where llama.cpp has BF16 or F32 matrices, Q8_0 for the output."""
    if name == "output.weight":
        return "Q8_0"
    wide = r"token_embd|hc_(attn|ffn)_fn|output_hc_fn|compressor_(kv|gate|ape)|indexer\.|ffn_gate_inp"
    return "F16" if re.search(wide, name) else kind
