"""What changes during a run, at the steps where it changes."""

from __future__ import annotations

import itertools

import pytest

from wavefold.train import schedule
from wavefold.train.recipe import Recipe, load_recipe
from wavefold.train.settings import with_settings


def test_learning_rate_warms_up_stays_and_falls_to_a_tenth() -> None:
    recipe = Recipe(steps=100, warmup=10, decay_steps=40, peak_lr=1.0, final_lr=0.1)
    rates = [schedule.learning_rate(recipe, step) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == 1.0
    assert set(rates[10:61]) == {1.0}
    assert rates[80] == pytest.approx(0.55)  # half way down
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[60:]))


def test_batch_grows_and_lengths_follow_their_stages() -> None:
    recipe = Recipe(batch_tokens=8000, batch_first=2000, batch_ramp=10, length_stages=((0, 512), (5, 2048), (8, 8000)))
    sizes = [schedule.batch_tokens(recipe, step) for step in range(12)]
    assert sizes[0] == 2000 and sizes[5] == 5000 and sizes[10:] == [8000, 8000]
    assert [schedule.seq_len(recipe, step) for step in (0, 4, 5, 7, 8, 100)] == [512, 512, 2048, 2048, 8000, 8000]


def test_attention_is_dense_then_warms_the_indexer_then_sparse() -> None:
    recipe = Recipe(dense_steps=3, indexer_warmup=2)
    stages = [schedule.attention(recipe, step) for step in range(6)]
    assert stages == ["dense"] * 3 + ["warmup"] * 2 + ["sparse"]
    assert schedule.attention(Recipe(), 0) == "sparse"


def test_mtp_weight_falls_where_the_learning_rate_does() -> None:
    recipe = Recipe(steps=100, warmup=10, decay_steps=40)
    assert [schedule.mtp_weight(recipe, step) for step in (0, 59, 60, 99)] == [0.3, 0.3, 0.1, 0.1]


def test_quantization_begins_where_the_recipe_says() -> None:
    recipe = Recipe(quantize_from=5)
    assert [schedule.quantize(recipe, step) for step in (0, 4, 5)] == ["none", "none", "fp4"]
    assert schedule.quantize(Recipe(quantize="none", quantize_from=5), 9) == "none"


@pytest.mark.parametrize("name", ["steps", "batch_tokens", "peak_lr"])
def test_recipe_refuses_what_makes_no_run(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = -1 is not allowed"):
        Recipe(**{name: -1})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer", "sgd", "'sgd' is not allowed; expected 'muon' or 'adamw'"),
        ("quantize", "int4", "expected 'fp4' or 'none'"),
        ("length_stages", ((5, 512),), "from step 0"),
        ("peak_lr", float("nan"), "peak_lr = nan is not allowed"),
        ("steps", "many", "steps = 'many' is not allowed"),
    ],
)
def test_recipe_names_what_is_wrong(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{key: value})  # type: ignore[arg-type]


def test_unknown_keys_are_named_with_the_known_ones(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"recipe key 'stepps' is not known; expected one of .*\bsteps\b"):
        with_settings(Recipe(), ["stepps=3"])
    file = tmp_path / "mine.py"
    file.write_text("from wavefold.train.recipe import Recipe\nrecipe = Recipe(stepps=3)\n")
    with pytest.raises(ValueError, match=r"mine.py: .*stepps.*keys are steps"):
        load_recipe(file)
    file.write_text("steps = 3\n")
    with pytest.raises(ValueError, match=r"defines no recipe"):
        load_recipe(file)
    with pytest.raises(ValueError, match=r"no such recipe"):
        load_recipe(tmp_path / "other.py")
    file.write_text("from wavefold.train.recipe import Recipe\nrecipe = Recipe(steps=3)\n")
    assert load_recipe(file) == Recipe(steps=3)
