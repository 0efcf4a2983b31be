"""A saved copy is the checkpoint it was loaded from: its keys, its tensors, what lies beside them, and its logits.

transformers is the judge: whatever original it loads, it loads the copy too, and computes the same bits.
`make test-copies TRANSFORMERS=5.24.0` asks another release of it.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'wavefold[test]'")

import transformers
from transformers import AutoTokenizer, DeepseekV4ForCausalLM, FineGrainedFP8Config

import wavefold
from tests.transformers_bridge import EAGER, transformers_config
from wavefold import ModelConfig, quant
from wavefold.chat import byte_tokenizer
from wavefold.system import Notice

SMALL = ModelConfig.preset("nano").replace(
    vocab_size=320, hidden_size=96, moe_intermediate_size=32, num_attention_heads=2, head_dim=56, qk_rope_head_dim=16,
    q_lora_rank=40, o_lora_rank=24, index_n_heads=3, index_head_dim=32, index_topk=128, num_hidden_layers=3,
    compress_ratios=(0, 4, 128, 0), num_hash_layers=1, n_routed_experts=3,
)  # fmt: skip

Tensors = dict[str, Tensor]
Values = dict[str, Any]
Change = Callable[[Path, Tensors, Values], None]


def decoded(dtype: torch.dtype, names: Callable[[str], bool] = lambda name: True) -> Change:
    """Matrices without scales, in `dtype`."""

    def change(folder: Path, tensors: Tensors, values: Values) -> None:
        for name in [name for name in tensors if name.endswith(".scale") and names(name)]:
            weight = name.replace(".scale", ".weight")
            tensors[weight] = quant.dequantize(tensors[weight], tensors.pop(name), dtype)

    return change


def everything_in(dtype: torch.dtype) -> Change:
    """All floats in `dtype`, and no quantization_config."""

    def change(folder: Path, tensors: Tensors, values: Values) -> None:
        decoded(dtype)(folder, tensors, values)
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        values.pop("quantization_config")

    return change


def keys(**others: Any) -> Change:
    return lambda folder, tensors, values: values.update(others)


def without(*names: str) -> Change:
    return lambda folder, tensors, values: [values.pop(name) for name in names] and None


def side_files(folder: Path, tensors: Tensors, values: Values) -> None:
    byte_tokenizer().save(folder)
    (folder / "encoding").mkdir()
    for name in ("encoding/encoding_dsv4.py", "chat_template.jinja", "LICENSE", "special_tokens_map.json",
                 "generation_config.json"):  # fmt: skip
        (folder / name).write_text("{}" if name.endswith("json") else "# text\n")


def transformers_keys(folder: Path, tensors: Tensors, values: Values) -> None:
    """config.json as transformers writes it, with the quantization_config that an official one has."""
    kept = {key: values[key] for key in ("quantization_config", "expert_dtype", "architectures")}
    theirs = transformers_config(ModelConfig.from_dict(values)).to_dict()
    values.clear()
    values |= {key: value for key, value in theirs.items() if key not in EAGER} | kept


def drafter(folder: Path, tensors: Tensors, values: Values) -> None:
    for name in [name for name in tensors if name.startswith(("mtp.0.e_proj", "mtp.0.h_proj"))]:
        del tensors[name]
    tensors["mtp.2.markov_w1.weight"] = torch.ones(4, 4)
    values |= {"dspark_block_size": 5, "compress_ratios": [0, 4, 128, 0, 0, 0]}


def stripped(folder: Path, tensors: Tensors, values: Values) -> None:
    for name in [name for name in tensors if name.startswith("mtp.")]:
        del tensors[name]


FORMATS: dict[str, Change] = {
    "official": keys(),
    "dense bf16": decoded(torch.bfloat16, lambda name: ".experts." not in name),
    "experts bf16": decoded(torch.bfloat16, lambda name: ".ffn.experts." in name),
    "all bf16": everything_in(torch.bfloat16),
    "all fp32": everything_in(torch.float32),
}
OTHERS: dict[str, Change] = {
    "plain": keys(),
    "side files": side_files,
    "unknown keys": keys(pad_token_id=2, attention_chunk_size=64, note={"a": [1]}),
    "dtype": lambda folder, tensors, values: values.update(dtype=values.pop("torch_dtype")),
    "transformers' keys": transformers_keys,
    "drafter": drafter,
    "stripped": stripped,
    "no rope scaling, many EOS": keys(rope_scaling=None, eos_token_id=[1, 5]),
}
MANY = list(itertools.product(FORMATS, OTHERS))
"""Forty differently made checkpoints."""


def make(folder: Path, form: str, other: str) -> None:
    """A checkpoint as somebody may have it."""
    wavefold.random_checkpoint(SMALL, folder, seed=3)
    tensors = {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}
    for file in folder.iterdir():
        if file.name != "config.json":
            file.unlink()
    values = json.loads((folder / "config.json").read_text())
    for change in (OTHERS[other], FORMATS[form]):
        if not (change is transformers_keys and "quantization_config" not in values):
            change(folder, tensors, values)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values))


def logits(folder: Path) -> Tensor | None:
    """transformers' logits; None where it does not load the folder."""
    values = json.loads((folder / "config.json").read_text())
    options = {"quantization_config": FineGrainedFP8Config(dequantize=True)} if "quantization_config" in values else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = DeepseekV4ForCausalLM.from_pretrained(folder, dtype=torch.float32, **options, **EAGER).float()
            tokens = torch.arange(140)[None] % 64
            with torch.no_grad():
                return model(tokens).logits
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError, AssertionError):
        return None


def check(form: str, other: str, tmp_path: Path) -> bool:
    """Copy, compare, and ask transformers of both; True if it loaded the original."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    make(original, form, other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        wavefold.save(wavefold.load(original, "exact"), copy)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (original, copy))
    fits = {"torch_dtype", "dtype", "quantization_config"}  # those that say what the tensors are
    assert {k: v for k, v in before.items() if k not in fits} == {k: v for k, v in after.items() if k not in fits}
    assert ("quantization_config" in after) == (not form.startswith("all"))
    names = {path.relative_to(original).as_posix() for path in original.rglob("*")}
    assert names - {"model.safetensors"} <= {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    stored = {name: t for file in sorted(copy.glob("*.safetensors")) for name, t in load_file(file).items()}
    for name, tensor in load_file(original / "model.safetensors").items():
        assert torch.equal(stored[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)), name
    expected = logits(original)
    if expected is not None:
        found = logits(copy)
        assert found is not None and torch.equal(found, expected)
    return expected is not None


@pytest.mark.parametrize(
    ("form", "other", "loads"),
    [("official", "side files", True), ("all bf16", "plain", True), ("all fp32", "transformers' keys", True),
     ("experts bf16", "unknown keys", True), ("official", "drafter", True)],
)  # fmt: skip
def test_a_copy_is_what_it_was_made_from(form: str, other: str, loads: bool, tmp_path: Path) -> None:
    assert check(form, other, tmp_path) == loads


@pytest.mark.slow
def test_forty_differently_made_checkpoints(tmp_path: Path) -> None:
    loaded = sum(check(form, other, tmp_path / f"{form} {other}") for form, other in MANY)
    print(f"{len(MANY)} copies; transformers {transformers.__version__} loads {loaded} originals, and their copies")
    assert len(MANY) == 40 and loaded >= 24


def test_a_copy_in_another_format_says_so(tmp_path: Path) -> None:
    make(tmp_path / "original", "official", "plain")
    wavefold.save(wavefold.load(tmp_path / "original", "exact"), tmp_path / "fp8", experts="fp8")
    values = json.loads((tmp_path / "fp8" / "config.json").read_text())
    assert values["expert_dtype"] == "fp8"
    assert torch.equal(logits(tmp_path / "fp8"), logits(tmp_path / "original"))


def test_transformers_knows_where_texts_begin_and_end(tmp_path: Path) -> None:
    make(tmp_path / "original", "official", "side files")
    wavefold.save(wavefold.load(tmp_path / "original", "exact"), tmp_path / "copy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
