"""Our folders are official ones: transformers, which we did not write, reads the same weights and computes the same.

transformers finds a block's size by dividing the weight's shape by its scale's. That is right for dims that are
multiples of 128 (FP8) and 32 (FP4), as all official ones are, and for FP8 dims below 128, which are one block. Others
it refuses or, 160 or 192 for example, reads with the wrong scales and says nothing; such folders are ours alone.
"""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'wavefold[test]'")

from transformers import DeepseekV4ForCausalLM, FineGrainedFP8Config

import wavefold
from tests.transformers_bridge import EAGER, decoded, to_transformers, transformers_model
from wavefold import ModelConfig, Transformer
from wavefold.checkpoint import random_model
from wavefold.ops import Arithmetic

LOGITS_ERROR = 5e-5
"""Largest error of a logit over the RMS of the logits."""

OFFICIAL = ModelConfig.preset("nano").replace(
    num_hidden_layers=4, compress_ratios=(0, 4, 128, 4, 0), num_hash_layers=2, index_topk=64
)
SMALL = OFFICIAL.replace(
    vocab_size=99, hidden_size=96, moe_intermediate_size=32, num_attention_heads=2, head_dim=56, qk_rope_head_dim=16,
    q_lora_rank=40, o_lora_rank=24, index_n_heads=3, index_head_dim=32, index_topk=128,
)  # fmt: skip
"""Every FP8 matrix is one partial block."""


def read(folder: Path) -> DeepseekV4ForCausalLM:
    """transformers' model of a folder, decoded. It keeps what is bfloat16 there so: `float` for the rest."""
    quantized = "quantization_config" in json.loads((folder / "config.json").read_text())
    dequantize = {"quantization_config": FineGrainedFP8Config(dequantize=True)} if quantized else {}
    return DeepseekV4ForCausalLM.from_pretrained(folder, dtype=torch.float32, **dequantize, **EAGER).float()


@pytest.fixture(scope="module", params=["fp4", "fp8", "small", "float32"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by `init`, by `save` with the same experts in FP8, and by `save` of an unquantized model."""
    path = tmp_path_factory.mktemp("checkpoint") / request.param
    if request.param == "float32":
        wavefold.save(random_model(OFFICIAL, seed=7, arithmetic=Arithmetic("exact")), path)
    else:
        wavefold.random_checkpoint(SMALL if request.param == "small" else OFFICIAL, path, seed=7)
    if request.param == "fp8":
        wavefold.save(wavefold.load(path, "exact"), path, experts="fp8")
    return path


def test_weights_are_equal(folder: Path) -> None:
    """Every tensor but the MTP module's, which transformers leaves out, bit for bit after decoding."""
    model = wavefold.load(folder, "exact")
    expert = model.experts.store.stored(0, 0).w1.codes
    stored = {"fp8": torch.float8_e4m3fn, "float32": torch.float32}.get(folder.name, torch.int8)
    assert expert.dtype == stored

    ours, theirs = to_transformers(decoded(model)), read(folder).state_dict()
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(bits(ours[name]), bits(theirs[name]))]
    assert not different


def bits(x: torch.Tensor) -> torch.Tensor:
    """Integers that tell 0 from -0."""
    return x.view(torch.int32) if x.dtype == torch.float32 else x


def test_logits_agree(folder: Path, device: torch.device) -> None:
    check_logits(wavefold.load(folder, "exact", device=device), read(folder).to(device))


@pytest.mark.parametrize("experts", ["fp4", "fp8"])
def test_partial_blocks(experts: str, tmp_path: Path) -> None:
    """Dims that transformers' reader cannot have: we read our own file, and its model takes the decoded weights."""
    config = SMALL.replace(hidden_size=160, moe_intermediate_size=80, q_lora_rank=130, expert_dtype=experts)
    wavefold.random_checkpoint(config, tmp_path / "model", seed=7)
    model = wavefold.load(tmp_path / "model", "exact")
    check_logits(model, transformers_model(model))


def check_logits(model: Transformer, other: DeepseekV4ForCausalLM) -> None:
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, model.config.vocab_size, (2, 150), generator=generator).to(model.device)
    with torch.no_grad():
        ours, theirs = model(tokens), other(tokens, use_cache=False).logits
    assert (ours - theirs).abs().max() / theirs.square().mean().sqrt() < LOGITS_ERROR
