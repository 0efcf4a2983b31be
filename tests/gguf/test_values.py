"""A file's keys as those of a config.json, and what replaces a missing one."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.gguf_files import CONFIG, TINY, keys_of, number, rewritten, tensors_of, write
from wavefold import ModelConfig
from wavefold.gguf.table import KEYS, NEEDED, PREFIX
from wavefold.gguf.values import DERIVED

ARRAY, FLOAT, TEXT = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING


@pytest.fixture(scope="module")
def usual() -> dict[str, str]:
    """The key of a converted file for each key of config.json."""
    present = keys_of(TINY)
    return {key.config: PREFIX + key.names[0] for key in KEYS if PREFIX + key.names[0] in present}


def without(tmp_path: Path, *names: str, **more: tuple) -> Path:
    return rewritten(TINY, tmp_path / "model.gguf", keep=lambda key: key not in names, add=more)


def test_every_key_that_shapes_tell(usual, tmp_path):
    """All of them missing at once: the tensors' shapes tell the same model."""
    left_out = [usual[config] for config in DERIVED if config in usual]
    assert len(left_out) >= 14
    assert ModelConfig.from_file(without(tmp_path, *left_out)) == CONFIG


def test_a_key_that_no_shape_tells(usual, tmp_path):
    for config in set(NEEDED) - DERIVED.keys():
        with pytest.raises(ValueError, match=re.escape(f"key {usual[config]} is missing, and no tensor tells")):
            ModelConfig.from_file(without(tmp_path, usual[config]))


@pytest.mark.parametrize("key", [key for key in KEYS if len(key.names) > 1], ids=lambda key: key.config)
def test_older_names(key, usual, tmp_path):
    """An older name says the same: with another value, the configuration changes or refuses."""
    value = keys_of(TINY)[usual[key.config]]
    path = without(tmp_path, usual[key.config], **{PREFIX + key.names[-1]: value})
    assert ModelConfig.from_file(path) == CONFIG


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"swiglu_clamp_exp": ([10.0, 9.0], ARRAY, FLOAT)}, "expected one value for all layers"),
        ({"expert_gating_func": number(2)}, "scoring_func = 'sigmoid' is not allowed; expected 'sqrtsoftplus'"),
        ({"rope.scaling.type": ("linear", TEXT, None)}, "rope.scaling.type = 'linear' is not allowed"),
        ({"block_count": number(3)}, "compress_ratios = [4, 128] is not allowed; expected 3 or more"),
        ({"nextn_predict_layers": number(2)}, "nextn_predict_layers = 2 is not allowed"),
        (
            {"attention.compress_ratios": ([4, 5], ARRAY, gguf.GGUFValueType.INT32)},
            "compress_ratios = 5 is not allowed",
        ),
        ({"embedding_length": ("32", TEXT, None)}, "hidden_size = '32' is not allowed"),
        ({"embedding_length": (["32"], ARRAY, TEXT)}, "embedding_length holds texts; expected a number"),
        ({"hyper_connection.count": number(1 << 31)}, "hc_mult = 2147483648 is not allowed"),
    ],
)
def test_values_that_are_not_allowed(keys, message, tmp_path):
    path = rewritten(TINY, tmp_path / "model.gguf", add={PREFIX + key: value for key, value in keys.items()})
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        ModelConfig.from_file(path)
    assert str(path) in str(error.value)


def test_mtp_layers_are_left_out(tmp_path):
    keys = {"block_count": number(3), "nextn_predict_layers": number(1),
            "attention.compress_ratios": ([4, 128, 0], ARRAY, gguf.GGUFValueType.INT32)}  # fmt: skip
    path = rewritten(TINY, tmp_path / "model.gguf", add={PREFIX + key: value for key, value in keys.items()})
    assert ModelConfig.from_file(path) == CONFIG


def test_numbers_are_the_shortest_of_their_float32(tmp_path):
    """1e-6 is not a float32, and not what float32's nearest to it is in float64: the official number is meant."""
    assert keys_of(TINY)[f"{PREFIX}hyper_connection.epsilon"][0] != 1e-6
    assert ModelConfig.from_file(TINY).hc_eps == 1e-6
    wide = {f"{PREFIX}hyper_connection.epsilon": (1.1e-6, gguf.GGUFValueType.FLOAT64, None)}
    assert ModelConfig.from_file(rewritten(TINY, tmp_path / "model.gguf", add=wide)).hc_eps == 1.1e-6


def test_a_file_without_tensors(tmp_path):
    """As some tools write the keys alone."""
    path = write(tmp_path / "model.gguf", keys_of(TINY), {"output_norm.weight": ("F32", np.ones(32, np.float32))})
    with pytest.raises(ValueError, match=r"key deepseek4.vocab_size is missing, and no tensor tells its value"):
        ModelConfig.from_file(path)
    assert len(tensors_of(path)) == 1
