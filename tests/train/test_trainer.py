"""A run: it learns, resumes to the identical curve after kill -9, and exports what it trained."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train.tiny import CONFIG, RECIPE, tiny_trainer, write_corpus
from wavefold import ops
from wavefold.checkpoint import load
from wavefold.model.official import official_tensor, official_tensors
from wavefold.model.training_pass import TrainingPass
from wavefold.ops import Arithmetic
from wavefold.system import Notice
from wavefold.train import fake_quant
from wavefold.train.export import export
from wavefold.train.fake_quant import Masters, check_quantized
from wavefold.train.objective import Objective, evaluate
from wavefold.train.start import new_model
from wavefold.train.state import newest_state, states
from wavefold.train.stopping import Stopped


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


ARITHMETICS = {
    "float32": (torch.float32, "exact"), "bfloat16": (torch.bfloat16, "exact"), "released": (torch.bfloat16, "released")
}  # fmt: skip


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_export_evaluates_to_the_same_number(corpus, tmp_path, arithmetic, backend):
    """Masters with simulated quantization and the packed model, in the arithmetic of training: to the last bit."""
    dtype, activations = ARITHMETICS[arithmetic]
    with ops.using(backend=backend):
        trainer = tiny_trainer(
            corpus, tmp_path / "out", dtype, replace(RECIPE, steps=4, decay_steps=2, activations=activations)
        )
        trainer.run()
        export(CONFIG, trainer.exported(), tmp_path / "model")
        model = load(tmp_path / "model", activations, dtype)
        model.arithmetic = trainer.model.arithmetic
        assert official_tensor(model, "layers.0.ffn.experts.0.w1.weight").dtype == torch.int8
        assert model.get_parameter("layers.0.attn.wq_a.weight").dtype == torch.float8_e4m3fn
        nats, tokens = evaluate(Objective(model), trainer.held_out)
        assert nats / tokens == trainer.evaluate()  # to the last bit


def test_masters_see_quantized_weights_and_get_gradients(corpus, tmp_path):
    trainer = tiny_trainer(corpus, tmp_path / "out")
    masters = Masters(trainer.model)
    dense, routed = "layers.1.attn.wq_a.weight", "layers.1.ffn.experts.0.w2.weight"
    with masters.experts.acquire(1, [0]) as view:
        values = {dense: masters.values(trainer.model, "")[dense], routed: view[0].w2.codes}
    for name, value in values.items():
        assert not torch.equal(value, official_tensor(trainer.model, name))
        value.sum().backward()
        assert torch.equal(official_tensor(trainer.model, name).grad, torch.ones_like(value))


def test_every_trained_parameter_moves(corpus, tmp_path):
    trainer = tiny_trainer(corpus, tmp_path / "out")
    before = {name: p.detach().clone() for name, p in official_tensors(trainer.model)}
    trainer.run()
    still = {name for name, p in official_tensors(trainer.model) if torch.equal(p, before[name])}
    assert {name for name in still if "tid2eid" not in name} == set()


@pytest.mark.parametrize("num_kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_resumes_to_the_identical_curve_after_kill_9(corpus, tmp_path, num_kills):
    """Killed at a random moment, in a step, an evaluation or a save, each time out of so many."""
    run_in_child(corpus, tmp_path / "whole", None)
    expected = curve(tmp_path / "whole")
    assert len(expected) == RECIPE.steps
    rng = random.Random(0)
    killed = 0
    for attempt in range(num_kills):
        out = tmp_path / f"killed{attempt}"
        killed += run_in_child(corpus, out, (rng.randrange(RECIPE.steps), rng.uniform(0, 0.1)))
        run_in_child(corpus, out, None)
        assert curve(out) == expected, f"attempt {attempt}"
    assert killed >= num_kills * 3 // 4


def run_in_child(corpus: Path, out: Path, kill_at: tuple[int, float] | None) -> bool:
    """Run the tiny training in a forked process, killed after (steps, and some seconds); whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # a forked process has no OpenMP threads to wait for
            warnings.simplefilter("ignore", Notice)  # of a log without a state
            tiny_trainer(corpus, out).run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    if kill_at is not None:
        log, ended = out / "log.jsonl", time.monotonic() + 60
        while time.monotonic() < ended and (not log.exists() or log.read_text().count("\n") < kill_at[0]):
            time.sleep(0.002)
        time.sleep(kill_at[1])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if kill_at is None:
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


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_gradients_that_are_not_finite_stop_the_run_before_they_are_applied(corpus, tmp_path, value):
    """The loss is finite."""
    trainer = tiny_trainer(corpus, tmp_path / "out")
    trainer.model.embed.weight.register_hook(lambda grad: grad.fill_(value) if trainer.step == 5 else grad)
    with pytest.raises(FloatingPointError, match=f"step 6: the norm of the gradients is {value}; the last good state"):
        trainer.run()
    assert trainer.model.embed.weight.isfinite().all()
    assert tiny_trainer(corpus, tmp_path / "out").step == 3


def test_a_full_disk_keeps_the_last_state(corpus, tmp_path, monkeypatch):
    import safetensors.torch
    import torch.distributed.checkpoint.filesystem as filesystem

    trainer = tiny_trainer(corpus, tmp_path / "out")
    calls = []

    def full(module, name):
        real = getattr(module, name)

        def save(*args, **kwargs):
            calls.append(name)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, save)

    full(safetensors.torch, "save")
    del filesystem
    with pytest.raises(OSError, match=r"step-000006: the state could not be written .*No space left"):
        trainer.run()
    assert sorted(p.name for p in (tmp_path / "out" / "state").iterdir()) == ["step-000003"]
    assert tiny_trainer(corpus, tmp_path / "out").step == 3


def test_a_spike_goes_back_and_routes_by_anticipation(corpus, tmp_path):
    """One batch of noise: the run returns to its last state, chooses experts ahead for a while, and ends; a run killed
    after that resumes to the same curve."""
    recipe = replace(RECIPE, steps=60, save_every=5, anticipate=2, spike=1.3, eval_every=100)

    def run(out: Path, stop: int | None = None) -> list[dict]:
        trainer = tiny_trainer(corpus, out, recipe=recipe)
        good = trainer.batches

        def batches(step: int):
            packed = good(step)
            if step == 33:
                packed = replace(packed, targets=(packed.targets * 7 + 13) % 320)
            if step == stop:
                raise InterruptedError
            return packed

        trainer.batches = batches
        trainer.run()
        return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]

    log = run(tmp_path / "whole")
    assert [line["step"] for line in log] == list(range(1, 61))
    on = [line["step"] for line in log if line["anticipated"]]
    assert on == list(range(31, 51))  # from the state at 30, for ten times delta
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", stop=44)
    again = run(tmp_path / "cut")
    assert [(line["loss"], line["grad_norm"]) for line in again] == [(line["loss"], line["grad_norm"]) for line in log]


def test_gradients_that_are_not_finite_are_a_spike(corpus, tmp_path):
    recipe = replace(RECIPE, steps=36, save_every=5, anticipate=2, eval_every=100)
    trainer = tiny_trainer(corpus, tmp_path / "out", recipe=recipe)
    steps = []

    def hook(grad):
        steps.append(trainer.step)
        return grad * torch.inf if steps.count(33) == 1 and trainer.step == 33 else grad

    trainer.model.embed.weight.register_hook(hook)
    trainer.run()
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if line["anticipated"]] == list(range(31, 37))
    assert trainer.model.embed.weight.isfinite().all()


def test_a_run_that_was_stopped_goes_back_as_an_undisturbed_one(corpus, tmp_path):
    """Two stops leave states of their own, and the one at 30 stays beside them."""
    recipe = replace(RECIPE, steps=36, save_every=10, anticipate=2, spike=1.3, eval_every=100)

    def run(out: Path, stop: int | None = None) -> list[tuple[int, float, float, float | None]]:
        trainer = tiny_trainer(corpus, out, recipe=recipe)
        good = trainer.batches

        def batches(step: int):
            packed = good(step)
            if step + 1 == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return replace(packed, targets=(packed.targets * 7 + 13) % 320) if step == 33 else packed

        trainer.batches = batches
        trainer.run()
        return curve(out)

    whole = run(tmp_path / "whole")
    for stop in (31, 32):
        with pytest.raises(Stopped):
            run(tmp_path / "cut", stop)
        assert newest_state(tmp_path / "cut" / "state")[1]["step"] == stop
    assert run(tmp_path / "cut") == whole
    left = [[path.name for path in states(tmp_path / name / "state")] for name in ("whole", "cut")]
    assert left == [["step-000030", "step-000036"]] * 2


def test_a_spike_before_the_first_state_goes_back_to_the_first_weights(corpus, tmp_path):
    recipe = replace(RECIPE, steps=32, save_every=1000, anticipate=2, spike=1.3, eval_every=100)
    trainer = tiny_trainer(corpus, tmp_path / "out", recipe=recipe)
    good = trainer.batches

    def batches(step: int):
        packed = good(step)
        return replace(packed, targets=(packed.targets * 7 + 13) % 320) if step == 27 else packed

    trainer.batches = batches
    trainer.run()
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 33))
    assert [line["step"] for line in log if line["anticipated"]] == list(range(1, 30))
    undisturbed = tiny_trainer(
        corpus, tmp_path / "other", recipe=replace(recipe, steps=1, anticipate=0, warmup=0, decay_steps=0)
    )
    undisturbed.run()
    assert log[0]["loss"] == curve(tmp_path / "other")[0][1]  # the first weights, and the first batch


def test_anticipated_routes_are_those_of_earlier_weights(corpus, tmp_path):
    trainer = tiny_trainer(corpus, tmp_path / "out", recipe=replace(RECIPE, anticipate=2))
    trainer.anticipation.begin(0)
    packed = trainer.batches(2)
    with torch.no_grad():
        first = TrainingPass("sparse")
        trainer.objective(packed, False, first)
    used = []
    real = trainer._backward

    def backward(packed, with_mtp, training):
        used.append(training.routes)
        return real(packed, with_mtp, training)

    trainer._backward = backward
    for _ in range(3):
        trainer._train_step()
        trainer.step += 1
    assert used[0] is None and used[1] is None
    assert set(used[2]) == set(first.chosen) and all(torch.equal(used[2][n], first.chosen[n]) for n in first.chosen)
    now = TrainingPass("sparse")
    with torch.no_grad():
        trainer.objective(packed, False, now)
    assert any(not torch.equal(now.chosen[n], first.chosen[n]) for n in first.chosen)  # the weights have moved on


def test_quantization_that_is_off_is_refused(corpus, tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="does not round the index"):
        check_quantized(Masters(new_model(CONFIG, Arithmetic("exact", torch.float32), 0)))
    monkeypatch.setattr(fake_quant, "rounded", lambda weight, form, dtype: weight.to(dtype))
    with pytest.raises(RuntimeError, match="quantization is off"):
        tiny_trainer(corpus, tmp_path / "out")


def test_every_line_of_the_log_says_whether_quantization_is_on(corpus, tmp_path):
    for quantize, low, high in (("fp4", 1, 1), ("none", 0, 0.2)):
        out = tmp_path / quantize
        tiny_trainer(corpus, out, recipe=replace(RECIPE, quantize=quantize, steps=3, decay_steps=1)).run()
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert all(low <= line["quantized"] <= high for line in lines)


def test_stages_of_attention_train_what_they_should(corpus, tmp_path):
    trainer = tiny_trainer(corpus, tmp_path / "out", recipe=replace(RECIPE, dense_steps=2, indexer_warmup=2, steps=6))

    def moved() -> set[str]:
        before = {name: p.detach().clone() for name, p in official_tensors(trainer.model)}
        trainer._train_step()
        trainer.step += 1
        return {name for name, p in official_tensors(trainer.model) if not torch.equal(p, before[name])}

    index = {name for name, _ in official_tensors(trainer.model) if ".indexer." in name}
    stages = [moved() for _ in range(6)]
    assert not (stages[0] | stages[1]) & index and stages[0]
    assert stages[2] == index and stages[3] <= index
    assert index <= stages[4] and stages[4] - index


def test_held_out_documents_are_seen_as_in_the_step_before(corpus, tmp_path):
    """All entries are attended to until the indexer has learned; after the last step the export's attention decides."""
    recipe = replace(RECIPE, dense_steps=2, indexer_warmup=1, steps=4, decay_steps=2, eval_every=1)
    trainer = tiny_trainer(corpus, tmp_path / "out", recipe=recipe)
    expected = []

    def report(progress):
        expected.append(
            [evaluate(trainer.objective, trainer.held_out, attention=stage) for stage in ("dense", "sparse")]
        )

    trainer.run(report)
    means = [[nats / tokens for nats, tokens in pair] for pair in expected]
    assert all(dense != sparse for dense, sparse in means)
    held_out = [line[3] for line in curve(tmp_path / "out")]
    assert held_out == [*(dense for dense, _ in means[:3]), means[3][1]]
    trainer = tiny_trainer(corpus, tmp_path / "dense", recipe=replace(recipe, dense_steps=4, indexer_warmup=0))
    assert trainer.run() == trainer.evaluate() == curve(tmp_path / "dense")[-1][3]
    nats, tokens = evaluate(trainer.objective, trainer.held_out)
    assert trainer.evaluate() == nats / tokens


def test_config_of_the_test_has_every_kind_of_layer():
    assert set(CONFIG.compress_ratios) == {0, 4, 128}


def test_quantizing_late_is_the_plain_run_until_then(tmp_path: Path) -> None:
    """Weights and index alike: until the step, losses are equal to the bit; from it on they are not."""
    data = write_corpus(tmp_path / "corpus")
    sparse = replace(RECIPE, steps=6, length_stages=((0, 80),))  # 20 entries, of which 8 are chosen
    late, plain = (
        tiny_trainer(data, tmp_path / name, recipe=replace(sparse, **settings))
        for name, settings in (("late", {"quantize_from": 4}), ("plain", {"quantize": "none"}))
    )
    for trainer in (late, plain):
        trainer.run()
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("late", "plain")
    ]
    equal = [
        (mine["loss"], mine["index_loss"]) == (theirs["loss"], theirs["index_loss"])
        for mine, theirs in zip(*logs, strict=True)
    ]
    assert equal == [True] * 4 + [False] * 2
    assert [line["quantized"] == 1 for line in logs[0]] == [False] * 4 + [True] * 2
