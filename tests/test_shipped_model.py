"""The model in package data: small, in the official layout, and the same to transformers as to us."""

from __future__ import annotations

import sysconfig
import warnings
from pathlib import Path

import pytest
import torch

import wavefold
from wavefold.chat import Tokenizer, heal
from wavefold.engine import generate
from wavefold.locate import DEFAULT_MODEL, default_model
from wavefold.model.official import official_tensor

MEGABYTE = 1_000_000
NUM_TOKENS = 400


@pytest.fixture(scope="module")
def text() -> str:
    """A file that the training run held out."""
    return (Path(sysconfig.get_paths()["stdlib"]) / "enum.py").read_text()


def test_is_at_most_16_megabytes():
    assert sum(file.stat().st_size for file in DEFAULT_MODEL.iterdir()) <= 16 * MEGABYTE


def test_is_stored_in_the_official_formats():
    model = wavefold.load(default_model(), "exact")
    assert model.config == wavefold.ModelConfig.preset("nano").replace(n_routed_experts=4)
    assert model.config == wavefold.ModelConfig.from_file(Path(__file__).parents[1] / "recipes" / "nano.json")
    assert official_tensor(model, "layers.1.ffn.experts.3.w2.weight").dtype == torch.int8
    assert model.get_parameter("layers.1.attn.wkv.weight").dtype == torch.float8_e4m3fn
    assert model.get_parameter("layers.1.attn.compressor.wkv.weight").dtype == torch.bfloat16


def test_tokenizer_gives_text_back(text):
    tokenizer = Tokenizer.load(default_model())
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert max(ids) < wavefold.ModelConfig.preset("nano").vocab_size


@pytest.mark.parametrize("arithmetic", ["exact", "released"])
def test_has_learned_its_language(text, arithmetic):
    """Better than two bits a byte on a held-out file; a random model has more than six."""
    tokenizer = Tokenizer.load(default_model())
    tokens = torch.tensor([tokenizer.encode(text, bos=True)[: NUM_TOKENS + 1]])
    model = wavefold.load(default_model(), arithmetic)
    loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:], reduction="sum")
    num_bytes = len(tokenizer.decode(tokens[0, 1:].tolist()).encode())
    assert float(loss) / 0.6931 / num_bytes < 2.0


def test_completes_a_function():
    tokenizer = Tokenizer.load(default_model())
    model = wavefold.load(default_model(), "released")
    prompt = heal(tokenizer, tokenizer.encode("def fibonacci(n):", bos=True))
    ids = list(generate(model, prompt.ids, 12, temperature=0, first_ids=prompt.first_ids))
    assert tokenizer.decode(ids, len(prompt.taken)).startswith("\n    ")


def test_transformers_gives_the_same_logits(text):
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.load(default_model())
    tokens = torch.tensor([tokenizer.encode(text, bos=True)[:NUM_TOKENS]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = transformers.DeepseekV4ForCausalLM.from_pretrained(
            default_model(),
            quantization_config=transformers.FineGrainedFP8Config(dequantize=True),
            dtype=torch.float32,
            attn_implementation="eager",
        ).float()
    with torch.no_grad():
        theirs = other(tokens).logits
        ours = wavefold.load(default_model(), "exact")(tokens)
    assert (ours - theirs).abs().max() / theirs.square().mean().sqrt() < 5e-5
