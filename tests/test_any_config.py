"""Any configuration loads, runs, decodes as it prefills and trains, or is refused by a message with key and value."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import small
from wavefold import Transformer, load, ops, random_checkpoint
from wavefold.config import ModelConfig
from wavefold.data.batches import Batches, fixed_batches
from wavefold.train import schedule
from wavefold.train.recipe import Recipe
from wavefold.train.start import arithmetic_of, new_model
from wavefold.train.trainer import Trainer

BASE = small.SMALL.to_dict()
"""Every kind of layer, widths of 16 to 64."""

RECIPE = Recipe(steps=2, length_stages=((0, 24),), batch_tokens=48, warmup=1, decay_steps=1, mtp_every=1, eval_every=9,
                save_every=9)  # fmt: skip

LENGTHS = (7, 19, 135)
"""Tokens of a text: within a window, over some entries of CSA, over an entry of HCA."""

ODD = st.sampled_from([0, -1, 2.5, float("nan"), float("inf"), True, None, "8", [], {}, 10**400])
"""What no size is."""

ALLOWED: dict[str, st.SearchStrategy[Any]] = {
    "vocab_size": st.integers(2, 90), "hidden_size": st.integers(1, 70), "moe_intermediate_size": st.integers(1, 70),
    "num_attention_heads": st.integers(1, 6), "head_dim": st.integers(2, 70), "qk_rope_head_dim": st.integers(1, 34),
    "q_lora_rank": st.integers(1, 40), "o_groups": st.integers(1, 4), "o_lora_rank": st.integers(1, 20),
    "index_n_heads": st.integers(1, 4), "index_head_dim": st.sampled_from([16, 32, 48, 64, 128]),
    "index_topk": st.integers(1, 40), "n_routed_experts": st.integers(1, 6), "num_experts_per_tok": st.integers(1, 6),
    "num_hash_layers": st.integers(0, 4), "routed_scaling_factor": st.floats(0.1, 4),
    "swiglu_limit": st.floats(0.1, 20),
    "sliding_window": st.sampled_from([128, 128, 64, 256, 1]), "hc_mult": st.integers(1, 5),
    "hc_sinkhorn_iters": st.integers(1, 21), "hc_eps": st.floats(1e-7, 1e-2), "rms_norm_eps": st.floats(1e-7, 1e-2),
    "max_position_embeddings": st.sampled_from([1, 64, 4096, 2**20]), "rope_theta": st.floats(1.5, 1e6),
    "compress_rope_theta": st.floats(1.5, 1e6), "expert_dtype": st.sampled_from(["fp4", "fp8", "bf16", "int4"]),
    "eos_token_id": st.sampled_from([1, [1], [0, 1], [1, 500], []]), "bos_token_id": st.integers(-1, 70),
    "rope_scaling": st.sampled_from([
        None, {"type": "yarn", "factor": 4, "original_max_position_embeddings": 256}, {"type": "default"},
        {"rope_type": "yarn", "factor": 1.5, "original_max_position_embeddings": 16, "beta_fast": 4, "beta_slow": 1},
        {"type": "linear", "factor": 2}, {"factor": 2}, 4,
    ]),
    "scoring_func": st.sampled_from(["sqrtsoftplus", "sigmoid"]), "tie_word_embeddings": st.booleans(),
    "hidden_act": st.sampled_from(["silu", "gelu"]), "attention_bias": st.booleans(),
    "quantization_config": st.sampled_from([None, BASE["quantization_config"], {"fmt": "e5m2"}, 1]),
    "partial_rotary_factor": st.sampled_from([0.25, 0.5, "x"]), "mlp_bias": st.booleans(),
}  # fmt: skip
"""Values of a key that may do, and some that may not."""


@st.composite
def configurations(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """The keys of a config.json, and which of them were drawn."""
    values = dict(BASE)
    keys = draw(st.lists(st.sampled_from(sorted(ALLOWED)), max_size=5, unique=True))
    for key in keys:
        values[key] = draw(ALLOWED[key] if draw(st.integers(0, 9)) else ODD)
    if draw(st.booleans()):
        layers, mtp = draw(st.integers(1, 3)), draw(st.integers(0, 1))
        ratios = draw(st.lists(st.sampled_from([0, 4, 128] * 4 + [1]), min_size=layers, max_size=layers))
        values |= {"num_hidden_layers": layers, "num_nextn_predict_layers": mtp, "compress_ratios": ratios + [0] * mtp}
        keys += ["num_hidden_layers", "num_nextn_predict_layers", "compress_ratios"]
    return values, keys


def check(values: dict[str, Any], keys: list[str], length: int) -> bool:
    """True if the configuration makes a model that does all that models do; False if it is refused in good order."""
    try:
        config = ModelConfig.from_dict(values)
    except ValueError as error:
        assert any(key in str(error) for key in [*keys, *BASE]), error
        assert "expected" in str(error) or "missing" in str(error), error
        return False
    length = min(length, config.max_position_embeddings)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = Path(name) / "model"
        random_checkpoint(config, folder, seed=1)
        for arithmetic in ("exact", "released"):
            decodes_as_it_prefills(load(folder, arithmetic), length)
        trains(config, Path(name) / "out")
    return True


def decodes_as_it_prefills(model: Transformer, length: int) -> None:
    config = model.config
    tokens = torch.randint(0, config.vocab_size, (length,), generator=torch.Generator().manual_seed(0))
    pool = model.new_pool(2 * (length + 128))
    whole, parts = pool.open(), pool.open()
    hidden = model.extend(tokens, [whole], [length])
    pieces = [
        model.extend(part, [parts], [len(part)])
        for part in tokens.tensor_split([length - 3, length - 2, length - 1])
        if len(part)
    ]
    ours, theirs = model.logits(hidden[-1:]), model.logits(pieces[-1][-1:])
    assert ours.isfinite().all()
    if model.arithmetic.released:  # roundings fall otherwise where sums are taken in another order
        assert torch.corrcoef(torch.cat((ours, theirs)))[0, 1] > 0.98 or ours.std() < 1e-2
    else:
        error = (ours - theirs).square().mean().sqrt() / ours.square().mean().sqrt()
        assert error < 1e-4, error


def trains(config: ModelConfig, out: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(0, config.vocab_size, (40,), generator=generator).tolist() for _ in range(6)]
    recipe = replace(RECIPE, length_stages=((0, min(24, config.max_position_embeddings)),))
    batches = Batches(documents, 0, lambda step: schedule.sizes(recipe, step))
    model = new_model(config, arithmetic_of(recipe, torch.float32), 0)
    trainer = Trainer(model, batches, fixed_batches(documents[:1], *schedule.sizes(recipe, 0)), recipe, out)
    assert 0 < trainer.run() < 20


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_some_configurations(backend: str) -> None:
    many(20, backend)


@pytest.mark.slow
def test_two_thousand_configurations() -> None:
    """Half of them on the kernels."""
    for backend in ("reference", "auto"):
        counts = many(1000, backend)
        print(f"{backend}: {counts[0]} refused, {counts[1]} did all")
        assert min(counts) > 150


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("others", [{"head_dim": 16}, {"hc_mult": 1}, {"rope_scaling": None}, {"sliding_window": 64,
                         "compress_ratios": [0, 0, 0, 0]}])  # fmt: skip
def test_corners_that_work(others: dict[str, Any], backend: str) -> None:
    """All of a head rotates; one residual stream; no YaRN; another window where nothing is compressed."""
    with ops.using(backend=backend):
        assert check(BASE | others, list(others), 135)


def many(number: int, backend: str) -> list[int]:
    """How many of `number` configurations were refused, and how many did all."""
    counts = [0, 0]

    @settings(max_examples=number, derandomize=number < 100, **QUIET)
    @given(configuration=configurations(), length=st.sampled_from(LENGTHS))
    def each(configuration: tuple[dict[str, Any], list[str]], length: int) -> None:
        with ops.using(backend=backend):
            counts[check(*configuration, length)] += 1

    each()
    return counts
