"""ModelConfig: the official values, key by key, and an error for everything that is not a model of the family.

The two tables below are written from the published configurations, not from the presets.
"""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavefold import ModelConfig
from wavefold.config import CSA, HCA, SWA, RopeScaling

BOTH = {
    "num_key_value_heads": 1, "head_dim": 512, "qk_rope_head_dim": 64, "o_lora_rank": 1024, "sliding_window": 128,
    "index_n_heads": 64, "index_head_dim": 128, "n_shared_experts": 1, "num_experts_per_tok": 6, "num_hash_layers": 3,
    "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": True, "swiglu_limit": 10.0,
    "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rms_norm_eps": 1e-6, "num_nextn_predict_layers": 1,
    "vocab_size": 129280, "max_position_embeddings": 1048576, "rope_theta": 10000.0, "compress_rope_theta": 160000.0,
    "rope_scaling": RopeScaling(16.0, 32.0, 1.0, 65536), "hidden_act": "silu", "attention_bias": False,
    "attention_dropout": 0.0, "tie_word_embeddings": False, "initializer_range": 0.02, "bos_token_id": 0,
    "eos_token_id": 1, "torch_dtype": "bfloat16", "expert_dtype": "fp4",
}  # fmt: skip
FLASH = BOTH | {
    "hidden_size": 4096, "num_hidden_layers": 43, "num_attention_heads": 64, "q_lora_rank": 1024, "o_groups": 8,
    "index_topk": 512, "n_routed_experts": 256, "moe_intermediate_size": 2048, "routed_scaling_factor": 1.5,
    "compress_ratios": (0, 0, *[4, 128] * 20, 4, 0),
}  # fmt: skip
PRO = BOTH | {
    "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "q_lora_rank": 1536, "o_groups": 16,
    "index_topk": 1024, "n_routed_experts": 384, "moe_intermediate_size": 3072, "routed_scaling_factor": 2.5,
    "compress_ratios": (128, 128, *[4, 128] * 29, 4, 0),
}  # fmt: skip
KEYS = [field.name for field in dataclasses.fields(ModelConfig)]

VALUES = ModelConfig.preset("flash").to_dict()


def refused(key: str, value: object, allowed: str, **others: object) -> None:
    """`key` = `value` is refused by a message with all three."""
    with pytest.raises(ValueError) as error:
        ModelConfig.from_dict(VALUES | {key: value} | others)
    message = str(error.value)
    assert key in message
    assert repr(value) in message
    assert allowed in message


def layers_of(config: ModelConfig, ratio: int) -> tuple[int, ...]:
    """The layer numbers (MTP included) whose compress ratio is `ratio`."""
    return tuple(spec.layer for spec in config.layers if spec.ratio == ratio)


@pytest.mark.parametrize(("name", "expected"), [("flash", FLASH), ("pro", PRO)])
def test_preset_has_the_official_values(name: str, expected: dict[str, object]) -> None:
    config = ModelConfig.preset(name)
    assert set(expected) == set(KEYS)
    for key in KEYS:
        assert getattr(config, key) == expected[key], key
        assert type(getattr(config, key)) is type(expected[key]), key


def test_nano_is_a_model_with_every_kind_of_layer() -> None:
    nano = ModelConfig.preset("nano")
    assert all(layers_of(nano, ratio) for ratio in (SWA, CSA, HCA))
    assert nano.num_nextn_predict_layers == 1


def test_derived() -> None:
    flash = ModelConfig.preset("flash")
    assert flash.nope_head_dim == 448
    assert flash.num_blocks == 44
    assert layers_of(flash, SWA) == (0, 1, 43)
    assert layers_of(flash, CSA) == tuple(range(2, 43, 2))
    assert layers_of(flash, HCA) == tuple(range(3, 42, 2))
    pro = ModelConfig.preset("pro")
    assert (len(layers_of(pro, CSA)), len(layers_of(pro, HCA)), layers_of(pro, SWA)) == (30, 31, (61,))


def test_frozen() -> None:
    config = ModelConfig.preset("flash")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rope_scaling.factor = 1.0  # type: ignore[misc]
    assert hash(config) == hash(ModelConfig.preset("flash"))


def test_what_is_written_reads_back() -> None:
    config = ModelConfig.preset("pro")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_keys_of_no_concern_are_left_aside() -> None:
    others = {"transformers_version": "5.0", "use_cache": True, "ep_size": 1}
    assert ModelConfig.from_dict(VALUES | others) == ModelConfig.preset("flash")


def test_absent_and_null_take_the_default() -> None:
    values = VALUES | {"expert_dtype": None}
    del values["hc_eps"]
    assert ModelConfig.from_dict(values) == ModelConfig.preset("flash")


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(ModelConfig) if f.default is dataclasses.MISSING])
def test_required_key(key: str) -> None:
    with pytest.raises(ValueError, match=f"missing {key}"):
        ModelConfig.from_dict({k: v for k, v in VALUES.items() if k != key})


def test_all_missing_keys_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"missing vocab_size, hidden_size, .*routed_scaling_factor"):
        ModelConfig.from_dict({})


INTEGERS = [f.name for f in dataclasses.fields(ModelConfig) if f.type == "int"]
FLOATS = [f.name for f in dataclasses.fields(ModelConfig) if f.type == "float"]
FREE_OF_SIGN = ("num_hash_layers", "num_nextn_predict_layers", "bos_token_id", "eos_token_id", "attention_dropout")


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize("value", ["8", 2.5, True, [8], float("inf"), 2**31, 10**400])
def test_not_an_integer(key: str, value: object) -> None:
    refused(key, value, "an integer")


@pytest.mark.parametrize("key", FLOATS)
@pytest.mark.parametrize("value", ["8", False, [8], float("nan"), float("-inf"), 10**400])
def test_not_a_number(key: str, value: object) -> None:
    if value is not False or key != "attention_dropout":
        refused(key, value, "a number")


@pytest.mark.parametrize("key", [key for key in INTEGERS if key not in FREE_OF_SIGN])
@pytest.mark.parametrize("value", [0, -1])
def test_not_positive(key: str, value: int) -> None:
    allowed = {"num_key_value_heads": "1", "n_shared_experts": "1"}.get(key, "a positive number")
    refused(key, value, allowed)


@pytest.mark.parametrize("key", [key for key in FLOATS if key not in FREE_OF_SIGN])
def test_not_a_positive_float(key: str) -> None:
    refused(key, -0.5, "a positive number")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("num_hash_layers", -1, "0 or more"),
        ("index_topk", 10**9, "at most 1048576"),
        ("hidden_size", 1 << 21, "at most 1048576"),
        ("num_hash_layers", 44, "at most num_hidden_layers = 43"),
        ("num_key_value_heads", 2, "1"),
        ("n_shared_experts", 2, "1"),
        ("sliding_window", 256, "128"),
        ("scoring_func", "softmax", "'sqrtsoftplus'"),
        ("topk_method", "greedy", "'noaux_tc'"),
        ("norm_topk_prob", False, "True"),
        ("norm_topk_prob", 1, "true or false"),
        ("hidden_act", "gelu", "'silu'"),
        ("hidden_act", 3, "a string"),
        ("attention_bias", True, "False"),
        ("attention_dropout", 0.1, "0.0"),
        ("tie_word_embeddings", True, "False"),
        ("expert_dtype", "int4", "fp4 or fp8 or bf16"),
        ("qk_rope_head_dim", 63, "an even number"),
        ("qk_rope_head_dim", 130, "at most index_head_dim = 128"),
        ("o_groups", 7, "a divisor of num_attention_heads = 64"),
        ("index_head_dim", 96, "a power of two"),
        ("num_experts_per_tok", 257, "at most n_routed_experts = 256"),
        ("hidden_size", 4095, "an even number"),
        ("moe_intermediate_size", 1, "an even number"),
        ("eos_token_id", 129280, "0 to vocab_size - 1 = 129279"),
        ("bos_token_id", -1, "0 to vocab_size - 1"),
        ("model_type", "deepseek_v3", "'deepseek_v4'"),
        ("compress_ratios", "4,128", "a list of integers"),
        ("rope_scaling", 16, "an object"),
        ("quantization_config", [], "an object or null"),
    ],
)
def test_refused(key: str, value: object, allowed: str) -> None:
    refused(key, value, allowed)


def test_rope_wider_than_a_head() -> None:
    refused("qk_rope_head_dim", 64, "at most head_dim = 32", head_dim=32)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("type", "linear", "'yarn'"),
        ("factor", 0, "a positive number"),
        ("factor", None, "a number"),
        ("beta_fast", "32", "a number"),
        ("beta_slow", 64, "at most beta_fast = 32.0"),
        ("original_max_position_embeddings", 1.5, "an integer"),
    ],
)
def test_rope_scaling(key: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"rope_scaling\.{key} = .* is not allowed; expected {allowed}"):
        ModelConfig.from_dict(VALUES | {"rope_scaling": VALUES["rope_scaling"] | {key: value}})


@pytest.mark.parametrize("key", ["quant_method", "fmt", "scale_fmt", "activation_scheme", "weight_block_size"])
def test_quantization(key: str) -> None:
    with pytest.raises(ValueError, match=rf"quantization_config\.{key} = 'other' is not allowed"):
        ModelConfig.from_dict(VALUES | {"quantization_config": {key: "other"}})


class TestCompressRatios:
    """One for each main layer, and 0 for each MTP layer."""

    @pytest.mark.parametrize("ratios", [[0] * 43, [0] * 43 + [4], [], [4, 128]])
    def test_too_few(self, ratios: list[int]) -> None:
        allowed = "0 for the MTP layers" if len(ratios) == 44 else "44 entries"
        with pytest.raises(ValueError, match=f"compress_ratios = .* is not allowed; expected {allowed}"):
            ModelConfig.from_dict(VALUES | {"compress_ratios": ratios})

    @pytest.mark.parametrize("ratio", [1, 2, 8, 64, -4])
    def test_unknown_ratio(self, ratio: int) -> None:
        ratios = [0] * 20 + [ratio] + [0] * 23
        with pytest.raises(ValueError, match=f"compress_ratios = {ratio} is not allowed; expected 0, 4 or 128"):
            ModelConfig.from_dict(VALUES | {"compress_ratios": ratios})

    def test_an_entry_that_is_no_integer(self) -> None:
        with pytest.raises(ValueError, match="compress_ratios = '4' is not allowed"):
            ModelConfig.from_dict(VALUES | {"compress_ratios": ["4"] * 44})

    def test_zeros_of_mtp_layers_that_are_not_there(self) -> None:
        """Later releases list three MTP layers while num_nextn_predict_layers says one."""
        longer = ModelConfig.from_dict(VALUES | {"compress_ratios": [*VALUES["compress_ratios"], 0, 0]})
        assert longer == ModelConfig.preset("flash")
        with pytest.raises(ValueError, match="expected 44 entries"):
            ModelConfig.from_dict(VALUES | {"compress_ratios": [*VALUES["compress_ratios"], 0, 4]})

    def test_without_mtp(self) -> None:
        config = ModelConfig.from_dict(VALUES | {"num_nextn_predict_layers": 0})
        assert config.num_blocks == len(config.compress_ratios) == 43


class TestCut:
    def test_slice(self) -> None:
        config = ModelConfig.preset("flash").cut(num_layers=2, num_experts=16, vocab=512)
        assert config.compress_ratios == (0, 0, 0)
        assert (config.num_hidden_layers, config.num_hash_layers) == (2, 2)
        assert (config.n_routed_experts, config.vocab_size) == (16, 512)
        assert config.hidden_size == 4096

    def test_nothing(self) -> None:
        assert ModelConfig.preset("pro").cut() == ModelConfig.preset("pro")

    @pytest.mark.parametrize("num_layers", [0, -1, 44])
    def test_layers(self, num_layers: int) -> None:
        with pytest.raises(ValueError, match=f"layers = {num_layers} is not allowed; expected 1 to 43"):
            ModelConfig.preset("flash").cut(num_layers=num_layers)

    def test_experts(self) -> None:
        with pytest.raises(ValueError, match="num_experts_per_tok = 6 is not allowed; expected at most n_routed"):
            ModelConfig.preset("flash").cut(num_experts=5)


class TestFromFile:
    def test_file_and_folder(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(VALUES))
        assert ModelConfig.from_file(tmp_path) == ModelConfig.from_file(tmp_path / "config.json")

    def test_absent(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "nowhere.json"):
            with pytest.raises(ValueError, match=r"no such file; expected an official config\.json"):
                ModelConfig.from_file(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not a JSON file"),
            (b"{", "not a JSON file"),
            (b"\xff\xfe{}", "not a JSON file"),
            (b"[" * 100_000, "not a JSON file"),
            (b'{"vocab_size": ' + b"9" * 5000 + b"}", "not a JSON file"),
            (b"[]", "holds list, expected a JSON object"),
            (b"{}", "missing vocab_size"),
        ],
    )
    def test_unusable(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "config.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            ModelConfig.from_file(path)
        assert str(error.value).startswith(str(path))

    def test_value_error_names_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(VALUES | {"hidden_size": 0}))
        with pytest.raises(ValueError, match=r"config\.json: hidden_size = 0 is not allowed"):
            ModelConfig.from_file(path)

    def test_unknown_preset(self) -> None:
        with pytest.raises(ValueError, match="preset = 'huge' is not allowed; expected flash, nano, pro"):
            ModelConfig.preset("huge")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(key=st.sampled_from([*KEYS, "model_type", "quantization_config"]), value=JSON)
def test_any_json_is_a_config_or_a_value_error(key: str, value: object) -> None:
    try:
        config = ModelConfig.from_dict(VALUES | {key: value})
    except ValueError as error:
        assert key in str(error) or "compress_ratios" in str(error)
    else:
        assert ModelConfig.from_dict(config.to_dict()) == config
