"""A run: it learns, resumes to the identical curve after kill -9, and exports what it trained."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train.tiny import CONFIG, RECIPE, tiny_trainer, write_corpus
from wavefold.checkpoint import load
from wavefold.train.export import export
from wavefold.train.fake_quant import Masters
from wavefold.train.objective import Objective, evaluate
from wavefold.train.trainer import Recipe

NUM_KILLS = 10


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def curve(out: Path) -> list[tuple[int, float, float, float | None]]:
    """The log without its times."""
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["grad_norm"], line["held_out"]) for line in lines]


def test_learns(corpus, tmp_path):
    trainer = tiny_trainer(corpus, tmp_path / "out", recipe=replace(RECIPE, steps=40, peak_lr=1e-2))
    trainer.run()
    losses = [loss for _, loss, _, _ in curve(tmp_path / "out")]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_export_evaluates_to_the_same_number(corpus, tmp_path, dtype):
    trainer = tiny_trainer(corpus, tmp_path / "out", dtype)
    trainer.run()
    export(trainer.masters, tmp_path / "model")
    model = load(tmp_path / "model", dtype=dtype)
    assert model.get_parameter("layers.0.ffn.experts.0.w1.weight").dtype == torch.int8
    assert model.get_parameter("layers.0.attn.wq_a.weight").dtype == torch.float8_e4m3fn
    nats, tokens = evaluate(Objective(model), trainer.held_out)
    assert nats / tokens == trainer.evaluate()  # to the last bit


def test_masters_see_quantised_weights_and_get_gradients(corpus, tmp_path):
    trainer = tiny_trainer(corpus, tmp_path / "out")
    values = Masters(trainer.model).values(torch.float32)
    name = "layers.1.ffn.experts.0.w2.weight"
    assert not torch.equal(values[name], trainer.model.get_parameter(name))
    values[name].sum().backward()
    assert torch.equal(trainer.model.get_parameter(name).grad, torch.ones_like(values[name]))


def test_every_trained_parameter_moves(corpus, tmp_path):
    trainer = tiny_trainer(corpus, tmp_path / "out")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.run()
    still = {name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])}
    assert {name for name in still if ".indexer." not in name and "tid2eid" not in name} == set()


def test_resumes_to_the_identical_curve_after_kill_9(corpus, tmp_path):
    """Killed at a random moment, in a step, an evaluation or a save, ten times out of ten."""
    began = time.perf_counter()
    run_in_child(corpus, tmp_path / "whole", None)
    seconds = time.perf_counter() - began
    expected = curve(tmp_path / "whole")
    assert len(expected) == RECIPE.steps
    rng = random.Random(0)
    killed = 0
    for attempt in range(NUM_KILLS):
        out = tmp_path / f"killed{attempt}"
        killed += run_in_child(corpus, out, rng.uniform(0.2, 0.95) * seconds)
        run_in_child(corpus, out, None)
        assert curve(out) == expected, f"attempt {attempt}"
    assert killed >= NUM_KILLS // 2


def run_in_child(corpus: Path, out: Path, kill_after: float | None) -> bool:
    """Run the tiny training in a forked process, killed after some seconds; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # a forked process has no OpenMP threads to wait for
            tiny_trainer(corpus, out).run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if kill_after is None:
        assert status == 0
    return os.WIFSIGNALED(status)


def test_state_of_another_recipe_is_refused(corpus, tmp_path):
    tiny_trainer(corpus, tmp_path / "out").run()
    with pytest.raises(ValueError, match="peak_lr"):
        tiny_trainer(corpus, tmp_path / "out", recipe=replace(RECIPE, peak_lr=0.5))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(corpus, tmp_path, monkeypatch):
    trainer = tiny_trainer(corpus, tmp_path / "out")
    good = trainer.batches

    def batches(step: int):
        if step == 5:
            with torch.no_grad():
                trainer.model.embed.weight.fill_(torch.nan)
        return good(step)

    monkeypatch.setattr(trainer, "batches", batches)
    with pytest.raises(FloatingPointError, match="step 6"):
        trainer.run()
    assert tiny_trainer(corpus, tmp_path / "out").step == 3


def test_a_full_disk_keeps_the_last_state(corpus, tmp_path, monkeypatch):
    import wavefold.train.state as state

    trainer = tiny_trainer(corpus, tmp_path / "out")
    real, calls = state.save_file, []

    def save_file(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(*args, **kwargs)

    monkeypatch.setattr(state, "save_file", save_file)
    with pytest.raises(OSError, match="No space left"):
        trainer.run()
    assert [p.name for p in (tmp_path / "out" / "state").iterdir()] == ["step-000003"]
    assert tiny_trainer(corpus, tmp_path / "out").step == 3


@pytest.mark.parametrize("name", ["steps", "seq_len", "peak_lr"])
def test_recipe_refuses_what_makes_no_run(name):
    with pytest.raises(ValueError, match=f"{name} = -1"):
        Recipe(**{name: -1})


def test_config_of_the_test_has_every_kind_of_layer():
    assert set(CONFIG.compress_ratios) == {0, 4, 128}
