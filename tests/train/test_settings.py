"""`--set KEY=VALUE`: every value has its field's type or is refused in one message, and schedules fit their steps."""

from __future__ import annotations

import argparse
import math
import string
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.train.tiny import CONFIG
from wavefold.cli.main import main
from wavefold.cli.train import recipe_of
from wavefold.train import schedule
from wavefold.train.recipe import KINDS, WORDS, Recipe, load_recipe
from wavefold.train.settings import parse_setting, with_settings
from wavefold.train.start import check_trainable


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("recompute=false", False),
        ("recompute=False", False),
        ("recompute=true", True),
        ("steps=1e3", 1000),
        ("steps=1_000", 1000),
        ("steps=1000.0", 1000),
        ("seed=9223372036854775807", 2**63 - 1),  # no digit is lost on the way through a float
        ("peak_lr=2", 2.0),
        ("peak_lr=.5", 0.5),
        ("peak_lr=1e-3", 1e-3),
        ("optimizer=adamw", "adamw"),
        ("optimizer='adamw'", "adamw"),
        ("length_stages=((0,128),(100,256))", ((0, 128), (100, 256))),
        ("length_stages=[[0, 128], [100, 256]]", ((0, 128), (100, 256))),
        ("length_stages=((0,128),)", ((0, 128),)),
    ],
)
def test_a_value_has_its_fields_type(setting: str, value: object) -> None:
    key, parsed = parse_setting(setting)
    assert parsed == value and type(parsed) is type(value)
    assert getattr(with_settings(Recipe(), [setting]), key) == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps=2.5", r"steps = '2\.5' is not allowed; expected an integer"),
        ("seed=1.5", r"seed = '1\.5' is not allowed; expected an integer"),
        ("seed=-1", "seed = -1 is not allowed; expected a positive number or 0"),
        ("seed=9223372036854775808", "below 2\\^63"),
        ("batch_tokens=2147483648", "batch_tokens = 2147483648 is not allowed; expected an integer below 2\\^31"),
        ("peak_lr=1e300", "peak_lr = 1e\\+300 is not allowed"),
        ("steps=true", "steps = 'true' is not allowed; expected an integer"),
        ("steps=", "steps = '' is not allowed"),
        ("steps=inf", "steps = 'inf' is not allowed"),
        ("steps=1e999", "steps = '1e999' is not allowed"),
        ("steps=０", "steps = '０' is not allowed"),  # a digit, but no ASCII one
        ("steps=1__0", "steps = '1__0' is not allowed"),
        ("lora_rank=2.5", r"lora_rank = '2\.5' is not allowed"),
        ("peak_lr=nan", "peak_lr = 'nan' is not allowed; expected a finite number"),
        ("peak_lr=inf", "peak_lr = 'inf' is not allowed"),
        ("peak_lr=.", r"peak_lr = '\.' is not allowed"),
        ("peak_lr=0", r"peak_lr = 0\.0 is not allowed; expected a positive number"),
        ("recompute=1", "recompute = '1' is not allowed; expected true or false"),
        ("recompute=no", "recompute = 'no' is not allowed; expected true or false"),
        ("optimizer=sgd", "optimizer = 'sgd' is not allowed; expected 'muon' or 'adamw'"),
        ("length_stages=((0,1.5),)", r"length_stages = '\(\(0,1\.5\),\)' is not allowed; expected \(\(0, tokens\)"),
        ("length_stages=128", "length_stages = '128' is not allowed"),
        ("length_stages=()", r"length_stages = '\(\)' is not allowed"),
        ("length_stages=" + "(" * 9000, "length_stages = '[(]+[.][.][.] is not allowed"),
        ("quantize=__import__('os').system('true')", "quantize = .* is not allowed; expected 'fp4' or 'none'"),
        ("fim_rate=3.0", r"fim_rate = 3\.0 is not allowed; expected a number from 0 to 1"),
        ("final_lr=2", r"final_lr = 2\.0 is not allowed"),
        ("momentum=1", r"momentum = 1\.0 is not allowed"),
        ("spike=1", r"spike = 1\.0 is not allowed; expected a number above 1"),
        ("stepps=3", r"recipe key 'stepps' is not known; expected one of activations, .* \(--set 'stepps=3'\)"),
        ("=3", "recipe key '' is not known"),
        ("steps", "--set 'steps' is not allowed; expected KEY=VALUE"),
    ],
)
def test_other_values_are_refused_by_name(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_settings(Recipe(), [setting])


def test_the_last_of_two_equal_keys_wins() -> None:
    assert with_settings(Recipe(), ["steps=100", "seed=1", "steps=200"]).steps == 200


def test_a_recipe_in_python_is_checked_like_a_flag() -> None:
    for wrong in ({"steps": 2.5}, {"steps": True}, {"recompute": "false"}, {"seed": "1"}, {"peak_lr": math.inf},
                  {"length_stages": ((0, 128.0),)}, {"length_stages": 128}, {"warmup": 1.5}):  # fmt: skip
        key = next(iter(wrong))
        with pytest.raises(ValueError, match=f"{key} = .* is not allowed"):
            Recipe(**wrong)
    assert Recipe(length_stages=[[0, 128]]).length_stages == ((0, 128),)  # type: ignore[arg-type]


def test_the_default_run_warms_up_for_100_steps_and_decays_over_1300() -> None:
    recipe = Recipe()
    assert (recipe.steps, recipe.num_warmup, recipe.num_decay) == (2600, 100, 1300)


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 100, 400, 1000, 2600, 100_000])
def test_a_run_of_any_length_reaches_its_peak_and_ends_at_a_tenth(steps: int) -> None:
    recipe = Recipe(steps=steps)
    rates = [schedule.learning_rate(recipe, step) for step in range(steps)]
    assert max(rates) == recipe.peak_lr
    assert recipe.num_warmup + recipe.num_decay <= steps
    if steps >= 50:
        assert rates[-1] < 0.12 * recipe.peak_lr


def test_a_share_gives_way_to_the_number_that_is_set() -> None:
    assert (Recipe(steps=4, warmup=3).num_decay, Recipe(steps=100, decay_steps=100).num_warmup) == (1, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["steps=50", "warmup=50"], "warmup = 50 is not allowed; expected fewer than steps = 50"),
        (["steps=50", "warmup=20", "decay_steps=31"], "decay_steps = 31 is not allowed; expected at most 30"),
        (["steps=50", "decay_steps=51"], "decay_steps = 51 is not allowed; expected at most 50"),
        (["steps=50", "dense_steps=51"], "dense_steps = 51 is not allowed; expected at most steps = 50"),
        (
            ["steps=50", "dense_steps=20", "indexer_warmup=31"],
            "indexer_warmup = 31 is not allowed; expected at most 30",
        ),
        (["steps=50", "quantize_from=50"], "quantize_from = 50 is not allowed; expected fewer than steps = 50"),
        (["steps=50", "batch_ramp=51"], "batch_ramp = 51 is not allowed; expected at most steps = 50"),
        (["batch_tokens=512"], "batch_tokens = 512 is not allowed; expected 1024 or more: the longest sequences"),
        (
            ["length_stages=((0,8192),)"],
            r"length_stages = .* is not allowed; expected sequences of at most batch_tokens",
        ),
        (["batch_first=5000"], "batch_first = 5000 is not allowed; expected at most batch_tokens = 4096"),
        (
            ["batch_first=1024"],
            "batch_first = 1024 is not allowed; expected 0 without batch_ramp",
        ),
        (["batch_ramp=50"], "batch_ramp = 50 is not allowed; expected 0 without batch_first"),
        (["fim_lines=0.5"], r"fim_lines = 0\.5 is not allowed; expected 0 without fim_rate, or fim_rate above 0"),
        (["steps=50", "length_stages=((0,64),(50,128))"], "stages that begin before steps = 50; one begins at 50"),
    ],
)
def test_a_schedule_beyond_the_run_is_refused(values: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_settings(Recipe(), values)


def test_steps_in_which_nothing_would_learn_are_refused() -> None:
    """The indexer alone learns in them: not beside adapters, nor where there is none."""
    recipe = Recipe(indexer_warmup=20)
    check_trainable(CONFIG, recipe)
    with pytest.raises(ValueError, match="indexer_warmup = 20 is not allowed with lora_rank; expected 0"):
        check_trainable(CONFIG, replace(recipe, lora_rank=4))
    plain = CONFIG.replace(compress_ratios=tuple(128 * (ratio > 0) for ratio in CONFIG.compress_ratios))
    with pytest.raises(ValueError, match="not allowed with a model without indexed layers"):
        check_trainable(plain, recipe)
    with pytest.raises(ValueError, match="not allowed with index_weight = 0; expected 0"):
        check_trainable(CONFIG, replace(recipe, index_weight=0.0))


def test_a_recipe_cut_short_names_all_that_has_no_room() -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    with pytest.raises(ValueError) as refused:
        with_settings(load_recipe(recipes / "nano.py"), ["steps=50"])
    problems = [text for text in str(refused.value).split("; ") if "is not allowed" in text]
    assert [text.split(" = ")[0] for text in problems] == [
        "warmup", "quantize_from", "last_steps", "dense_steps", "decay_steps", "indexer_warmup", "length_stages",
    ]  # fmt: skip


def test_the_shipped_recipes_keep_their_figures() -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    nano, instruct = load_recipe(recipes / "nano.py"), load_recipe(recipes / "instruct.py")
    assert (nano.num_warmup, nano.num_decay) == (100, 1500)
    assert (instruct.num_warmup, instruct.num_decay) == (20, 300)


VALUES = st.one_of(
    st.integers().map(str),
    st.integers(0, 5000).map(str),
    st.floats().map(repr),
    st.sampled_from(["true", "false", "True", "None", "nan", "-inf", "1e3", "1e400", "", " 7 ", "1_0", "1__0", "_1",
                     "0x10", "１２", "٣", "²", "fp4", "'none'", "adamw", "released", "__import__('os').system('id')",
                     "((0,128),(100,256))", "[[0,64]]", "((0,64),(0,65))", "9" * 5000, "1" + "0" * 400, "-0", "1e-400",
                     "1e99999999999", "((((0,1),),),)", "f'{1}'", "lambda: 0", "1;2", "\x00", "\udcff", "=", "a=b"]),
    st.integers(1, 9000).map(lambda n: "(" * n + "0,1" + ")" * n),
    st.lists(st.tuples(st.integers(-1, 300), st.integers(-1, 300)), max_size=4).map(lambda s: repr(tuple(s))),
    st.text(string.printable, max_size=30),
    st.text(max_size=20),
)  # fmt: skip
KEYS = st.one_of(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(KINDS)), st.text(max_size=12))
TYPES = {"int": int, "float": float, "bool": bool, "word": str, "stages": tuple}


@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(KEYS, VALUES)
def test_any_setting_gives_a_value_of_its_type_or_a_message(key: str, value: str) -> None:
    """By the function that `wavefold train` calls: only ValueError becomes exit code 2."""
    setting = f"{key}={value}"
    name, _, rest = setting.partition("=")
    name, rest = name.strip(), rest.strip()
    try:
        recipe = recipe_of(argparse.Namespace(recipe=None, set=[setting]))
    except ValueError as error:
        message = str(error)
        assert len(message) < 1000
        assert name not in KINDS or message.startswith(f"{name} = ") or "steps = " in message, message
        if name in KINDS:
            shown = message.partition(" is not allowed")[0].partition(" = ")[2]
            assert shown, message
        else:
            assert repr(name[:100])[:57].rstrip("'\"") in message, message
        return
    parsed = getattr(recipe, name)
    assert type(parsed) is TYPES[KINDS[name]]
    if KINDS[name] == "float":
        assert parsed == float(rest)
    elif KINDS[name] == "int":
        assert parsed == int(rest) if rest.lstrip("+-").isdigit() else parsed == float(rest)
    elif KINDS[name] == "bool":
        assert rest.lower() == str(parsed).lower()
    elif KINDS[name] == "stages":
        assert all(type(number) is int for stage in parsed for number in stage)


@pytest.mark.parametrize(
    "setting",
    ["recompute=0", "steps=2.5", "seed=1.5", "seed=-1", "lora_rank=2.5", "fim_rate=3.0", "peak_lr=nan", "x=1",
     "length_stages=" + "(" * 5000, "steps=" + "9" * 5000, "optimizer=__import__('os')"],
)  # fmt: skip
def test_the_command_ends_with_2_and_one_line(tmp_path: Path, capsys, setting: str) -> None:
    assert main(["train", "--out", str(tmp_path / "out"), "--set", setting]) == 2
    error = capsys.readouterr().err
    assert error.startswith("wavefold: error: ") and error.count("\n") == 1 and len(error) < 1000
    assert setting.partition("=")[0] in error and not (tmp_path / "out").exists()


def test_every_field_has_a_kind() -> None:
    assert set(KINDS) == {f.name for f in fields(Recipe)}
    assert set(KINDS.values()) == {"int", "float", "bool", "word", "stages"}
    assert {key for key, kind in KINDS.items() if kind == "word"} == set(WORDS)
