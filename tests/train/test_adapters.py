"""Adapters: what their base's format keeps of them, and PEFT's layout, which computes on transformers' model the same.

PEFT on transformers' `DeepseekV4ForCausalLM` is the outside oracle of the unmerged adapter.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.train.tiny import CONFIG as TINY
from tests.train.tiny import write_corpus
from tests.transformers_bridge import transformers_model
from wavefold import quant
from wavefold.checkpoint import load, random_checkpoint
from wavefold.checkpoint.adapter import read_adapter
from wavefold.checkpoint.load import assign
from wavefold.checkpoint.random import random_model
from wavefold.cli.main import main
from wavefold.model import Transformer
from wavefold.model.official import MATRIX, official_owner, official_owners, official_tensors, own_tensors
from wavefold.model.parameters import Linear
from wavefold.ops import Arithmetic
from wavefold.system import Notice
from wavefold.train.fake_quant import Masters
from wavefold.train.kept_delta import kept_products, kept_report, kept_share
from wavefold.train.lora import adapted, add_adapters, apply_adapters, save_adapters
from wavefold.train.peft_layout import save_peft
from wavefold.train.recipe import Recipe

CONFIG = TINY.replace(index_topk=64)
"""All entries are chosen: with two index heads many scores are zero, and which of those come first is arbitrary."""
RANK = 4
RECIPE = Recipe(lora_rank=RANK, lora_alpha=8.0)


@functools.cache
def packed_folder() -> Path:
    """A random checkpoint in the released formats."""
    folder = Path(tempfile.mkdtemp()) / "base"
    random_checkpoint(CONFIG, folder, 3)
    return folder


def base_of(dtype: torch.dtype | None) -> Transformer:
    """A random model, as released (None) or with every float tensor in `dtype`."""
    model = load(packed_folder(), "exact")
    if dtype is None:
        return model
    tensors: dict[str, Tensor] = {}
    for prefix, owner in official_owners(model):
        dot = f"{prefix}." if prefix else ""
        for name, parameter in own_tensors(owner).items():
            if isinstance(owner, MATRIX) and name == "weight":
                tensors[f"{dot}weight"] = quant.dequantize(parameter, owner.scale, torch.float32).to(dtype)
            elif not isinstance(owner, MATRIX):
                tensors[dot + name] = parameter.to(dtype) if parameter.is_floating_point() else parameter
    plain = Transformer(CONFIG, model.arithmetic)
    assign(plain, tensors)
    return plain


def with_deltas(model: Transformer, size: float) -> Transformer:
    """Adapters with a random B, so that a delta is about `size` times its weight."""
    generator = torch.Generator().manual_seed(1)
    for name in add_adapters(model, RANK, RECIPE.lora_alpha, 0):
        module: Linear = model.get_submodule(name)  # type: ignore[assignment]
        weight = quant.dequantize(module.weight, module.scale, torch.float32)
        b = torch.randn(module.out_features, RANK, generator=generator)
        delta = (b @ module.lora_a) * module.lora_scale
        with torch.no_grad():
            module.lora_b.copy_(b * (size * weight.std() / delta.std()))
    return model


def products_of(model: Transformer) -> dict[str, tuple[float, float]]:
    return kept_products(Masters(model), dict(official_tensors(model)))


def test_zero_adapters_have_no_share() -> None:
    model = base_of(None)
    add_adapters(model, RANK, 8.0, 0)
    assert kept_share(products_of(model)) is None
    assert kept_report(products_of(model))["kept"] is None


@pytest.mark.parametrize(("size", "low", "high"), [(1e-4, -0.1, 0.1), (1e-2, 0.2, 0.95), (1.0, 0.98, 1.02)])
def test_fp8_keeps_large_deltas_and_loses_small_ones(size: float, low: float, high: float) -> None:
    products = products_of(with_deltas(base_of(None), size))
    share = kept_share(products)
    assert share is not None and low < share < high
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = kept_report(products)
    assert [w.category for w in caught] == ([Notice] if share < 0.9 else [])
    assert report["least"] <= report["mean"] and set(report["modules"]) == set(products)


def test_the_share_is_that_of_the_export() -> None:
    """By the definition, from the tensors that a load of the merged model would read."""
    model = with_deltas(base_of(None), 0.02)
    exported = Masters(model).export()
    for name, (product, norm) in products_of(model).items():
        module: Linear = model.get_submodule(name)  # type: ignore[assignment]
        base = quant.dequantize(module.weight, module.scale, torch.float64)
        merged = quant.dequantize(exported[f"{name}.weight"], exported[f"{name}.scale"], torch.float64)
        delta = (module.lora_b.double() @ module.lora_a.double()) * RECIPE.lora_alpha / RANK
        assert product == pytest.approx(float(((merged - base) * delta).sum().detach()), rel=1e-4, abs=1e-9)
        assert norm == pytest.approx(float((delta * delta).sum().detach()), rel=1e-5)


@pytest.mark.parametrize(("dtype", "low"), [(torch.float32, 1 - 1e-5), (torch.bfloat16, 0.95)])
def test_an_unpacked_base_keeps_its_dtype_and_the_delta(dtype: torch.dtype, low: float) -> None:
    model = with_deltas(base_of(dtype), 0.05)
    share = kept_share(products_of(model))
    assert share is not None and low < share < 2 - low
    exported = Masters(model).export()
    for name, parameter in official_tensors(model):
        if "lora_" in name:
            continue
        assert exported[name].dtype == parameter.dtype, name
        if "lora_a" not in own_tensors(official_owner(model, name.rpartition(".")[0])):
            assert torch.equal(exported[name], parameter), name


def logits(model: Transformer, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens)


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def test_adapters_applied_without_rounding_are_base_plus_delta(tmp_path: Path) -> None:
    """On a float32 base merged and unmerged are one; on FP8 they are two, and only the unmerged one is exact."""
    tokens = torch.randint(0, CONFIG.vocab_size, (1, 150), generator=torch.Generator().manual_seed(0))
    for dtype, equal in ((torch.float32, True), (None, False)):
        model = with_deltas(base_of(dtype), 0.02)
        parameters = dict(official_tensors(model))
        save_adapters(model, parameters, tmp_path / "adapters.safetensors")
        merged = Transformer(CONFIG, Arithmetic("exact"))
        assign(merged, Masters(model).export())
        unmerged = base_of(dtype)
        apply_adapters(unmerged, tmp_path / "adapters.safetensors")
        one, two, plain = (logits(m, tokens) for m in (merged, unmerged, base_of(dtype)))
        error, effect = rms(one - two) / rms(two), rms(plain - two) / rms(two)
        assert effect > 1e-2 and (error < 1e-5) == equal
        for name, module in model.named_modules():
            if isinstance(module, Linear) and "lora_a" in module._parameters:
                parts = {key: parameters[f"{name}.{key}"] for key in own_tensors(module)}
                torch.testing.assert_close(unmerged.get_submodule(name).weight, adapted(module, parts))


def test_adapters_of_another_model_are_refused(tmp_path: Path) -> None:
    model = with_deltas(base_of(None), 0.02)
    save_adapters(model, dict(official_tensors(model)), tmp_path / "a.safetensors")
    shallow = random_model(CONFIG.cut(2), 0, Arithmetic("exact"))
    with pytest.raises(
        ValueError, match=r"a\.safetensors: holds an adapter of layers\.2\..*, which this model has not"
    ):
        apply_adapters(shallow, tmp_path / "a.safetensors")
    narrow = random_model(CONFIG.replace(q_lora_rank=16), 0, Arithmetic("exact"))
    with pytest.raises(ValueError, match=r"the adapter of layers\.0\.attn\.wq_a is \[32, 32\]; expected \[16, 32\]"):
        apply_adapters(narrow, tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks for it
def test_peft_on_transformers_computes_what_our_unmerged_adapter_does(
    dtype: torch.dtype | None, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'wavefold[test]'")
    model = with_deltas(base_of(dtype), 0.05)
    parameters = dict(official_tensors(model))
    save_adapters(model, parameters, tmp_path / "adapters.safetensors")
    save_peft(model, parameters, tmp_path / "adapter", RECIPE, "base")
    ours = base_of(dtype)
    tokens = torch.randint(0, CONFIG.vocab_size, (1, 150), generator=torch.Generator().manual_seed(0))
    other = transformers_model(ours)
    with torch.no_grad():
        plain = other(tokens).logits
    wrapped = peft.PeftModel.from_pretrained(other, str(tmp_path / "adapter")).eval()
    loaded = {name for name, _ in wrapped.named_parameters() if "lora_" in name}
    assert len(loaded) == 2 * 7 * CONFIG.num_hidden_layers  # attention's four and the shared expert's three, no more
    with torch.no_grad():
        peft_value = wrapped(tokens).logits
    apply_adapters(ours, tmp_path / "adapters.safetensors")
    value = logits(ours, tokens)
    assert rms(peft_value - value) / rms(value) < 1e-4
    assert rms(plain - value) / rms(value) > 1e-2  # the adapter does something


def test_an_adapter_in_bfloat16_is_the_rounded_one_of_half_the_size(tmp_path: Path) -> None:
    model = with_deltas(base_of(None), 0.05)
    parameters = dict(official_tensors(model))
    for name, recipe in (
        ("wide", RECIPE),
        ("half", dataclasses.replace(RECIPE, lora_dtype="bfloat16", lora_greedy=True)),
    ):
        save_peft(model, parameters, tmp_path / name, recipe, "base")
    assert not (tmp_path / "wide" / "generation_config.json").exists()
    assert json.loads((tmp_path / "half" / "generation_config.json").read_text()) == {"do_sample": False}
    wide, half = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("wide", "half"))
    assert {tensor.dtype for tensor in wide.values()} == {torch.float32}
    assert wide.keys() == half.keys() and all(torch.equal(half[name], wide[name].bfloat16()) for name in wide)
    rounded = read_adapter(tmp_path / "wide", CONFIG, dtype=torch.bfloat16)
    assert read_adapter(tmp_path / "half", CONFIG).digest == rounded.digest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_writes_both_layouts_and_says_what_is_kept(tmp_path: Path, capsys, dtype: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG.to_dict()))
    assert main(["init", "--config", str(config), "--out", str(tmp_path / "base")]) == 0
    data, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    command = ["train", "--init", str(tmp_path / "base"), "--data", str(data), "--out", str(out), "--dtype", dtype,
               "--set", "steps=5", "length_stages=((0,160),)", "batch_tokens=320", "eval_every=2", "lora_rank=2",
               "peak_lr=1e-4"]  # fmt: skip
    assert main(command) == 0
    assert capsys.readouterr().err.count("of the adapters' delta in the merged model") == 1
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["adapters_kept"] is not None for line in lines] == [False, True, False, True, True]
    report = json.loads((out / "report.json").read_text())["adapters"]
    assert report["kept"] == pytest.approx(lines[-1]["adapters_kept"]) and report["kept"] < 0.9
    assert report["least"] <= report["mean"] and np.isfinite(report["mean"])
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    settings = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 2 and settings["base_model_name_or_path"] == str(tmp_path / "base")
    apply_adapters(load(tmp_path / "base", "exact"), out / "adapters.safetensors")
