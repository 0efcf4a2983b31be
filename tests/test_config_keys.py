"""Keys beside the official ones: read as what they mean, refused by name, or listed as without effect."""

import copy
import dataclasses
import json
from typing import Any

import pytest

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'wavefold[test]'")

import transformers

from wavefold.config import ModelConfig, RopeScaling
from wavefold.config.keys import FIXED, WITHOUT_EFFECT, WITHOUT_EFFECT_PREFIXES

VALUES = ModelConfig.preset("nano").to_dict()
NANO = ModelConfig.preset("nano")
KINDS = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention",
         "compressed_sparse_attention"]  # fmt: skip


def without(*keys: str, **others: Any) -> dict[str, Any]:
    """nano's keys without some, with others."""
    return {key: value for key, value in VALUES.items() if key not in keys} | others


def theirs(values: dict[str, Any]) -> dict[str, Any]:
    """How transformers rotates the layers that compress, for the same keys."""
    values = copy.deepcopy({key: value for key, value in values.items() if key != "architectures"})  # it writes into it
    config = transformers.DeepseekV4Config(**values)
    return dict(config.rope_parameters["compress"])


@pytest.mark.parametrize(
    "values",
    [
        without("rope_scaling"),
        without(rope_scaling=None),
        without("rope_scaling", rope_parameters=None),
        without("rope_scaling", rope_parameters={"rope_type": "default"}),
        without("rope_scaling", rope_parameters={"main": {"rope_type": "default", "rope_theta": 10000},
                                                 "compress": {"rope_type": "default", "rope_theta": 160000}}),
    ],
)  # fmt: skip
def test_without_rope_scaling_nothing_is_scaled(values: dict[str, Any]) -> None:
    assert ModelConfig.from_dict(values).rope_scaling is None
    assert theirs(values)["rope_type"] == "default"


YARN = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 4096}


NESTED = {"main": {"rope_type": "default"}, "compress": {**YARN, "attention_factor": 1.0}}


@pytest.mark.parametrize("parameters", [YARN, NESTED])
def test_rope_parameters_are_read_as_rope_scaling(parameters: dict[str, Any]) -> None:
    values = without("rope_scaling", rope_parameters=parameters, max_position_embeddings=16384)
    assert ModelConfig.from_dict(values).rope_scaling == RopeScaling(4.0, 32.0, 1.0, 4096)
    compress = theirs(values)
    assert (compress["rope_type"], compress["factor"], compress["attention_factor"]) == ("yarn", 4, 1.0)


def test_rope_parameters_say_the_bases() -> None:
    parameters = {"main": {"rope_theta": 500.0}, "compress": {"rope_theta": 7000.0, **NESTED["compress"]}}
    config = ModelConfig.from_dict(without("rope_scaling", "rope_theta", "compress_rope_theta",
                                           rope_parameters=parameters))  # fmt: skip
    assert (config.rope_theta, config.compress_rope_theta) == (500.0, 7000.0)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"rope_parameters": YARN}, "beside rope_scaling"),
        ({"rope_parameters": {"main": {"rope_theta": 5}, "compress": NESTED["compress"]}}, "beside rope_theta = 10000"),
        ({"rope_parameters": {"main": {}, "compress": YARN}}, "rope_parameters.compress.attention_factor = None"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5}}, "rope_parameters.rope_theta = 5"),
        ({"rope_parameters": NESTED | {"main": {"rope_type": "yarn"}}}, "rope_parameters.main.rope_type"),
        ({"rope_parameters": {"main": {}}}, "rope_parameters.compress = None"),
        ({"rope_parameters": 3}, "rope_parameters = 3"),
        ({"rope_scaling": {"factor": 16}}, "rope_scaling.type = None"),
        ({"rope_scaling": {"type": "linear", "factor": 16}}, "rope_scaling.type = 'linear'"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling.factor = None"),
        ({"rope_scaling": {**YARN, "attention_factor": 1.3}}, "rope_scaling.attention_factor = 1.3"),
        ({"rope_scaling": {**YARN, "mscale": 0.7}}, "rope_scaling.mscale = 0.7"),
        ({"layer_types": KINDS[::-1]}, "beside compress_ratios"),
        ({"layer_types": ["full_attention"] * 4}, "layer_types = 'full_attention'"),
        ({"layer_types": KINDS[:3]}, "num_hidden_layers = 4"),
        ({"layer_types": "sliding"}, "layer_types = 'sliding'"),
        ({"mlp_layer_types": ["moe"] * 4}, "beside num_hash_layers"),
        ({"mlp_layer_types": ["moe", "hash_moe", "moe", "moe"]}, "official key: num_hash_layers"),
        ({"mlp_layer_types": ["hash_moe"]}, "num_hidden_layers = 4"),
        ({"compress_rates": {"compressed_sparse_attention": 8}}, "compress_rates.compressed_sparse_attention = 8"),
        ({"compress_rates": {"other": 4}}, "compress_rates.other = 4"),
        ({"compress_rates": [4]}, "compress_rates = [4]"),
        ({"compress_rate_hca": 64}, "heavily_compressed_attention = 64"),
        ({"partial_rotary_factor": 0.5}, "beside qk_rope_head_dim = 64"),
        ({"partial_rotary_factor": "0.5"}, "partial_rotary_factor = '0.5'"),
        ({"num_local_experts": 9}, "num_local_experts = 9"),
        ({"intermediate_size": 9}, "intermediate_size = 9"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"router_jitter_noise": 0.1}, "router_jitter_noise = 0.1"),
        ({"quantization_config": {"expert_dtype": "fp8"}}, "beside expert_dtype = 'fp4'"),
        ({"eos_token_id": []}, "eos_token_id = []"),
        ({"eos_token_id": [1, 99999]}, "eos_token_id = 99999"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(others: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="is not allowed") as error:
        ModelConfig.from_dict(VALUES | others)
    assert message in str(error.value)


def test_what_transformers_writes_is_the_same_model() -> None:
    """Its own dictionary, in which none of our keys for layers, hashing and rotation is left."""
    written = json.loads(json.dumps(transformers.DeepseekV4Config(**without("architectures")).to_dict()))
    assert not {"compress_ratios", "num_hash_layers", "rope_scaling"} & written.keys()
    assert ModelConfig.from_dict(written) == NANO


def test_mlp_layer_types_say_which_layers_hash() -> None:
    values = without("num_hash_layers", mlp_layer_types=["hash_moe", "moe", "moe", "moe"])
    assert ModelConfig.from_dict(values).num_hash_layers == 1


def test_a_list_of_eos() -> None:
    config = ModelConfig.from_dict(VALUES | {"eos_token_id": [1, 7]})
    assert config.eos_token_ids == (1, 7)
    assert config.to_dict()["eos_token_id"] == [1, 7]


def test_every_field_has_an_effect_or_a_reason() -> None:
    """A field is read somewhere outside of its own file, has one value, or is in the table of those without effect.

    Some are read through what is derived from them.
    """
    import re

    from wavefold.config import PRESETS_DIR

    sources = [path.read_text() for path in PRESETS_DIR.parent.rglob("*.py") if path.parent.name != "config"]
    for field in dataclasses.fields(ModelConfig):
        derived = {"eos_token_id": "eos_token_ids", "compress_ratios": "layers", "num_hash_layers": "layers"}
        name = derived.get(field.name, field.name)
        is_read = any(re.search(rf"config\.{name}\b", text) for text in sources)
        assert is_read != (field.name in WITHOUT_EFFECT or field.name in FIXED), field.name


def test_unknown_keys_are_named() -> None:
    values = VALUES | {"use_cache": True, "dspark_block_size": 5, "attention_chunk_size": 64}
    assert ModelConfig.unknown_keys(values) == ["attention_chunk_size"]
    assert all(WITHOUT_EFFECT.values()) and all(WITHOUT_EFFECT_PREFIXES.values())


class TestWrittenOver:
    """A copy's config.json has the file's own keys; only what changed is changed."""

    def test_nothing_changed(self) -> None:
        file = without("hc_eps", "eos_token_id", pad_token_id=2, eos_token_id=[1, 7], note="kept")
        assert ModelConfig.from_dict(file).written_over(file) == file

    def test_a_changed_value(self) -> None:
        file = without(note="kept")
        changed = ModelConfig.from_dict(file).replace(index_topk=4).written_over(file)
        assert changed == file | {"index_topk": 4}

    def test_keys_that_would_contradict_it_are_taken_out(self) -> None:
        file = without("compress_ratios", layer_types=KINDS)
        config = ModelConfig.from_dict(file)
        changed = config.replace(compress_ratios=(0, 0, 0, 4, 0)).written_over(file)
        assert "layer_types" not in changed
        assert ModelConfig.from_dict(changed).compress_ratios == (0, 0, 0, 4, 0)

    def test_mtp_that_the_files_lack_is_no_change(self) -> None:
        assert NANO.without_mtp().written_over(VALUES) == VALUES
