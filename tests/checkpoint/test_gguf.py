"""GGUF files as models: against the official folder that they came from, and against values by the gguf package."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.gguf_files import (
    CONFIG,
    TINY,
    WIDE,
    as_type,
    ds4_type,
    keys_of,
    number,
    official_folder,
    random_blocks,
    rewritten,
    tensors_of,
    values_of,
    write,
)
from wavefold import Arithmetic, ModelConfig, Transformer, load, save
from wavefold.checkpoint.files import read_tensors
from wavefold.checkpoint.fingerprint import fingerprint
from wavefold.checkpoint.load import assign
from wavefold.experts.streamed import StreamedExperts
from wavefold.gguf.table import NAMES, ROOT
from wavefold.model.official import MATRIX, official_names, official_owners, own_tensors
from wavefold.quant import dequantize
from wavefold.system import Notice

TOKENS = torch.arange(5, 305)[None] % CONFIG.vocab_size
EXACT = Arithmetic("exact", torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official_folder(tmp_path_factory.mktemp("official") / "tiny")


def exact(path: Path, **settings: object) -> Transformer:
    return load(path, "exact", torch.float32, **settings)  # type: ignore[arg-type]


def test_the_configuration_of_a_converted_file(folder):
    assert ModelConfig.from_file(TINY) == ModelConfig.from_file(folder) == CONFIG


def test_every_tensor_of_a_converted_file(folder):
    """llama.cpp's converter rounds FP8 matrices to Q8_0, as the gguf package does. All else is the official value."""
    official, model = read_tensors(folder), load(TINY, strict=True)
    assert set(official_names(model)) == {name for name in official if not name.endswith(".scale")}
    for name, owner in official_owners(model):
        for key, tensor in own_tensors(owner).items():
            full = f"{name}.{key}" if name else key
            expected = official[full]
            if isinstance(owner, MATRIX):
                scale = official.get(f"{name}.scale")
                expected, tensor = dequantize(expected, scale, torch.float32), owner.stored.decode(torch.float32)
                if owner.packed is not None and owner.packed.name == "q8_0":
                    expected = torch.from_numpy(values_of(*as_type("Q8_0", expected.numpy())))
            assert torch.equal(tensor.to(expected.dtype), expected), full
            if not isinstance(owner, MATRIX):
                assert tensor.dtype in (expected.dtype, torch.int32), full


def lossless_tensors(folder: Path) -> dict[str, tuple[str, np.ndarray]]:
    """TINY's tensors, with FP8 matrices as the bfloat16 values that they stand for."""
    official = read_tensors(folder)
    tensors = tensors_of(TINY)
    for name, (kind, _) in list(tensors.items()):
        if kind == "Q8_0":
            _, layer, suffix = name.split(".", 2)
            matrix = f"layers.{layer}.{NAMES[suffix].removesuffix('.weight')}"
            values = dequantize(official[f"{matrix}.weight"], official[f"{matrix}.scale"], torch.float32)
            tensors[name] = as_type("BF16", values.numpy())
    return tensors


def test_a_lossless_file_has_the_logits_of_the_official_folder(folder, tmp_path):
    path = write(tmp_path / "model.gguf", keys_of(TINY), lossless_tensors(folder))
    assert torch.equal(exact(path)(TOKENS), exact(folder)(TOKENS))


def test_experts_in_mxfp4_compute_as_experts_in_fp4(folder, tmp_path):
    """In released arithmetic too: the input of both is rounded to FP8."""
    path = write(tmp_path / "model.gguf", keys_of(TINY), lossless_tensors(folder))
    ours, official = load(path), load(folder)
    h = torch.randn(9, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids, weights = torch.tensor([[0, 1]] * 5 + [[1, 2]] * 4), torch.full((9, 2), 0.75)
    assert torch.equal(ours.experts.routed(1, h, weights, ids), official.experts.routed(1, h, weights, ids))


def test_ds4s_dialect(tmp_path):
    """Other types, a key for the vocabulary, and none of the keys that ds4's readers derive: the same values."""
    left_out = "hyper_connection.count", "q_lora_rank", "output_lora_rank", "output_group_count", "hash_layer_count"
    path = rewritten(
        TINY, tmp_path / "ds4.gguf", ds4_type, lambda key: not key.endswith(left_out),
        {"deepseek4.vocab_size": number(CONFIG.vocab_size)},
    )  # fmt: skip
    assert ModelConfig.from_file(path) == CONFIG
    model, plain = exact(path), exact(TINY)
    tensors = tensors_of(path)
    assert {kind for kind, _ in tensors.values()} == {"F16", "F32", "Q8_0", "MXFP4", "I32"}
    for name, official in ROOT.items():
        values = values_of(*tensors[name])
        owner = model.get_submodule(official.rpartition(".")[0])
        mine = owner.stored.decode(torch.float32) if hasattr(owner, "stored") else model.get_parameter(official)
        assert torch.equal(mine.float(), torch.from_numpy(values.copy())), name
    difference = model(TOKENS) - plain(TOKENS)
    assert 0 < difference.square().mean().sqrt() < 0.02 * plain(TOKENS).square().mean().sqrt()


TYPES = ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ3_XXS", "IQ2_XS", "IQ2_XXS", "MXFP4"]


def wide_file(path: Path, kind: str) -> tuple[Path, dict[str, np.ndarray]]:
    """A file of WIDE with every matrix that a quantizer touches in one type, and values by the gguf package."""
    tensors, values = {}, {}
    model = Transformer(WIDE, EXACT)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters() if not name.endswith(".scale")}
    for number_of, (name, official) in enumerate([*ROOT.items(), *NAMES.items()]):
        for layer in (None,) if name in ROOT else (0, 1):
            full = official if layer is None else f"layers.{layer}.{official}"
            stored, seed = name if layer is None else f"blk.{layer}.{name}", 100 * number_of + (layer or 0)
            if "{}" in full:
                rows, columns = (256, 256)
                kinds, blocks = random_blocks(kind, 3 * rows, columns, seed)
                tensors[stored] = kinds, blocks.reshape(3, rows, -1)
                decoded = values_of(*tensors[stored])
                values |= {full.format(expert): decoded[expert] for expert in range(3)}
            elif full in shapes:
                tensors[stored] = _random(full, shapes[full], kind, seed)
                values[full] = values_of(*tensors[stored])
    keys = keys_of(TINY)
    for key, of in (("embedding_length", 256), ("expert_feed_forward_length", 256), ("attention.q_lora_rank", 256),
                    ("attention.output_lora_rank", 128), ("attention.key_length", 256)):  # fmt: skip
        keys[f"deepseek4.{key}"] = number(of)
    return write(path, keys, tensors), values


def _random(name: str, shape: tuple[int, ...], kind: str, seed: int) -> tuple[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    if name.endswith("tid2eid"):
        return "I32", np.stack([rng.permutation(3)[:2] for _ in range(shape[0])]).astype(np.int32)
    if len(shape) == 2 and shape[1] % 256 == 0 and not name.endswith(("ape", "gate.weight")) and "hc_" not in name:
        return random_blocks(kind, *shape, seed)
    return "F32", (rng.standard_normal(shape) / max(1, len(shape) - 1) / 8 + ("norm" in name)).astype(np.float32)


@pytest.mark.parametrize("kind", TYPES)
def test_a_file_in_each_type_computes_with_its_values(kind, tmp_path):
    """Logits of the file are those of a model with the values that the gguf package decodes, to the bit; streamed too.

    Embedding, head, compressors, indexer and experts are all in the type.
    """
    path, values = wide_file(tmp_path / "model.gguf", kind)
    model, expected = exact(path), Transformer(ModelConfig.from_file(path), EXACT)
    assign(expected, {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()})
    logits = model(TOKENS)
    assert logits.isfinite().all() and torch.equal(logits, expected(TOKENS))
    assert model.embed.packed is not None and model.head.packed is not None
    assert model.experts.store.stored(0, 0).form == kind.lower()
    streamed = exact(path, num_slots=2)
    assert isinstance(streamed.experts.store, StreamedExperts) and torch.equal(streamed(TOKENS), logits)
    with pytest.raises(ValueError, match=f"is in {kind.lower()}, which is not written"):
        save(model, tmp_path / "copy")


@pytest.mark.parametrize("kind", ["Q4_K", "IQ2_XXS"])
def test_the_front_door_in_bfloat16(kind, tmp_path):
    """Without kernels for the type, layers are computed one by one: prompt and single tokens agree."""
    path, _ = wide_file(tmp_path / "model.gguf", kind)
    model = load(path, "exact", torch.bfloat16)
    assert not model.runs_on_kernels
    pool = model.new_pool(num_tokens=512)
    sequence = pool.open()
    rows = [model.logits(model.extend(part, [sequence], [len(part)])) for part in TOKENS[0, :40].split(1)]
    whole = model(TOKENS[:, :40])[0]
    assert (torch.cat(rows) - whole).square().mean().sqrt() < 0.03 * whole.square().mean().sqrt()


def test_parts(folder, tmp_path):
    """A model split by the gguf package: the first part opens all, and a message says what is wrong with another."""
    write(tmp_path / "model.gguf", keys_of(TINY), tensors_of(TINY), split_max_tensors=30)
    parts = sorted(tmp_path.glob("model-*.gguf"))
    assert [part.name for part in parts] == [f"model-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert torch.equal(exact(parts[0])(TOKENS), exact(TINY)(TOKENS))
    assert torch.equal(exact(parts[0], num_slots=2)(TOKENS), exact(TINY)(TOKENS))
    assert fingerprint(parts[0]) == fingerprint(TINY)
    with pytest.raises(ValueError, match=r"is part 2 of a model; give its first part: model-00001-of-00003.gguf"):
        load(parts[1])
    parts[2].rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"model-00003-of-00003.gguf: is missing; it is part 3 of 3"):
        load(parts[0])
    (tmp_path / parts[2].name).write_bytes(parts[1].read_bytes())
    with pytest.raises(ValueError, match="holds part 2 of 3, expected part 3 of 3"):
        load(parts[0])
    alone = parts[0].rename(tmp_path / "alone.gguf")
    with pytest.raises(ValueError, match=r"is the first of 3 parts; expected a name that ends in -00001-of-00003.gguf"):
        load(alone)


def test_aliases_of_names(tmp_path):
    other = {"attn_kv_a_norm": "attn_kv_norm", "indexer_compressor_kv": "indexer.compressor_kv",
             "exp_probs_b.bias": "exp_probs_b.weight", "output_hc_fn.weight": "output_hc_fn"}  # fmt: skip

    def renamed(name: str) -> str:
        for usual, alias in other.items():
            name = name.replace(usual, alias)
        return name

    path = rewritten(TINY, tmp_path / "other.gguf", rename=renamed)
    assert renamed("blk.0.attn_kv_a_norm.weight") in tensors_of(path)
    assert torch.equal(exact(path)(TOKENS), exact(TINY)(TOKENS))


def test_tensors_that_are_not_needed_are_named(tmp_path):
    tensors = tensors_of(TINY) | {"blk.2.nextn.enorm.weight": ("F32", np.ones(32, np.float32))}
    path = write(tmp_path / "model.gguf", keys_of(TINY), tensors)
    with pytest.warns(Notice, match=r"1 tensors of an MTP module or a drafter \(blk.2.nextn.enorm.weight first\)"):
        exact(path)
    with pytest.raises(ValueError, match="holds 1 tensors of an MTP module or a drafter"):
        load(path, strict=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blk.0.attn_norm.weight": None}, "1 missing: layers.0.attn_norm.weight"),
        ({"blk.0.strange.weight": ("F32", np.ones(4, np.float32))}, "'blk.0.strange.weight' has a name that this"),
        ({"blk.0.attn_norm.weight": ("F32", np.ones(64, np.float32))}, r"layers.0.attn_norm.weight is \[64\] float32"),
        ({"blk.0.attn_q_a.weight": as_type("Q8_0", np.ones((32, 64)))}, r"wq_a.weight is \[32, 64\] q8_0, expected"),
        ({"blk.0.ffn_up_exps.weight": as_type("Q8_0", np.ones((2, 32, 32)))}, "experts.2.w3.weight"),
        ({"blk.0.ffn_up_exps.weight": as_type("Q8_0", np.ones((96, 32)))}, r"expected \[experts, out, in\]"),
        ({"blk.0.attn_kv_norm.weight": ("F32", np.ones(32, np.float32))}, "which another tensor is too"),
        ({"blk.0.attn_q_a.weight": ("I32", np.ones((32, 32), np.int32))}, "wq_a.weight is"),
    ],
)
def test_tensors_that_do_not_fit(change, message, tmp_path):
    tensors = {name: value for name, value in (tensors_of(TINY) | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "model.gguf", keys_of(TINY), tensors))


def test_a_file_is_not_kept_when_another_takes_its_place(tmp_path):
    path = rewritten(TINY, tmp_path / "model.gguf")
    before = exact(path)(TOKENS)
    other = rewritten(TINY, tmp_path / "other.gguf", lambda name, kind: "Q8_0" if name == "output.weight" else kind)
    other.replace(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not torch.equal(exact(path)(TOKENS), before)
