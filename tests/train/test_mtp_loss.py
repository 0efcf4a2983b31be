"""The MTP module's loss: a mean over the learned targets two places on, in value, log and gradient."""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.train.tiny import CONFIG, RECIPE, torchrun
from wavefold.data.batches import IGNORED, Batches, PackedBatch, Tokens, fixed_batches, pack
from wavefold.model.official import official_tensors
from wavefold.train import schedule
from wavefold.train.objective import Objective
from wavefold.train.recipe import Recipe
from wavefold.train.start import arithmetic_of, check_trainable, new_model
from wavefold.train.trainer import Trainer

PLAIN = replace(RECIPE, quantize="none", mtp_every=1)


def masked_documents(num_learned: int = 4, length: int = 60) -> list[Tokens]:
    """Documents of random ids, of which the last `num_learned` are learned."""
    generator = np.random.default_rng(0)
    learned = np.arange(length) >= length - num_learned
    return [Tokens(generator.integers(0, CONFIG.vocab_size, length), learned) for _ in range(20)]


def trainer_of(documents: list[Tokens], out: Path, recipe: Recipe = PLAIN) -> Trainer:
    batches = Batches(documents, recipe.seed, functools.partial(schedule.sizes, recipe))
    model = new_model(CONFIG, arithmetic_of(recipe, torch.float32), recipe.seed)
    return Trainer(model, batches, fixed_batches(documents[:2], 160, recipe.batch_tokens), recipe, out)


def first_line(out: Path) -> dict:
    return json.loads((out / "log.jsonl").read_text().splitlines()[0])


def test_pairs_are_learned_targets_two_places_on() -> None:
    learned = np.array([0, 1, 0, 1, 1], bool)
    packed = pack([Tokens(np.arange(5), learned), np.arange(3), Tokens(np.arange(2))])
    assert packed.lengths == (4, 2, 1) and packed.num_targets == 3 + 2 + 1
    assert packed.num_pairs == 2 + 1 + 0  # targets 1, 3, 4: the first has no token two places before it


def test_the_logged_loss_is_the_mean_of_mtp_logits_over_learned_pairs(tmp_path: Path) -> None:
    """Held against `Transformer.mtp_logits`, which tests/model/test_released.py compares with the released code."""
    trainer = trainer_of(masked_documents(), tmp_path)
    packed = trainer.batches(0)
    model = new_model(CONFIG, arithmetic_of(PLAIN, torch.float32), PLAIN.seed)
    for _, parameter in official_tensors(model):  # what training sees while it does not quantize
        parameter.requires_grad_(False)
        if parameter.is_floating_point():
            parameter.copy_(parameter.bfloat16())
    nats, place = [], 0
    for n in packed.lengths:
        tokens, targets = packed.tokens[place : place + n], packed.targets[place : place + n]
        logits = model.mtp_logits(tokens[None])[0]
        nats += F.cross_entropy(logits, targets[1:], ignore_index=IGNORED, reduction="none")[
            targets[1:] != IGNORED
        ].tolist()
        place += n
    with pytest.raises(StopIteration):
        trainer.run(lambda progress: next(iter(())))  # one step
    logged = first_line(tmp_path)["mtp_loss"]
    assert logged == pytest.approx(np.mean(nats), rel=2e-3)
    all_pairs = sum(n - 1 for n in packed.lengths)
    assert not np.isclose(logged, np.sum(nats) / all_pairs, rtol=0.5)  # the mean over all pairs is another number


def test_the_gradient_of_the_module_does_not_depend_on_how_much_is_masked(tmp_path: Path) -> None:
    """Repeating a batch's unlearned part leaves the mean as it is; dividing by all pairs would shrink it."""
    norms = []
    for length in (12, 120):
        documents = masked_documents(4, length)
        trainer = trainer_of(documents, tmp_path / str(length), replace(PLAIN, clip=1e9))
        trainer._train_step()
        gradient = trainer.model.mtp[0].e_proj.weight.grad
        norms.append(float(gradient.norm()))
    assert 0.3 < norms[1] / norms[0] < 3  # all pairs: a tenth


def test_shares_add_up_to_the_batch(tmp_path: Path) -> None:
    model = new_model(CONFIG, arithmetic_of(PLAIN, torch.float32), 0)
    objective = Objective(model)
    packed = pack([*masked_documents()[:5], Tokens(np.array([3, 4]), np.array([False, True]))])
    whole = float(objective(packed, True).mtp.detach())
    for size in (2, 3):
        shares = [packed.share(rank, size) for rank in range(size)]
        assert sum(share.num_pairs for share in shares) == packed.num_pairs
        total = sum(float(objective(share, True).mtp.detach()) for share in shares)
        assert total == pytest.approx(whole, rel=1e-5)


def test_a_share_of_single_tokens_runs_the_module_and_counts_nothing() -> None:
    """The other processes gather the module's shards: a process that leaves it out would leave them waiting."""
    model = new_model(CONFIG, arithmetic_of(PLAIN, torch.float32), 0)
    single = PackedBatch(torch.tensor([5, 6]), torch.tensor([7, 8]), (1, 1))
    losses = Objective(model)(single, True)
    assert losses.mtp.requires_grad and float(losses.mtp.detach()) == 0 == single.num_pairs


def test_a_batch_without_a_pair_has_no_mtp_loss(tmp_path: Path) -> None:
    documents = [Tokens(np.array([5, 6 + i, 7]), np.array([False, True, False])) for i in range(200)]
    trainer_of(documents, tmp_path, replace(PLAIN, steps=1, warmup=0, decay_steps=0)).run()
    line = first_line(tmp_path)
    assert line["mtp_loss"] is None and line["loss"] > 0


def test_several_mtp_modules_are_refused_in_training_and_may_rest(tmp_path: Path) -> None:
    two = CONFIG.replace(num_nextn_predict_layers=2, compress_ratios=(0, 4, 128, 0, 0))
    with pytest.raises(ValueError, match=r"num_nextn_predict_layers = 2 .* expected 0 or 1.*mtp_weight=0"):
        check_trainable(two, RECIPE)
    model = new_model(two, arithmetic_of(RECIPE, torch.float32), 0)
    batches = Batches(masked_documents(), 0, functools.partial(schedule.sizes, RECIPE))
    with pytest.raises(ValueError, match="num_nextn_predict_layers = 2"):
        Trainer(model, batches, [], RECIPE, tmp_path)
    check_trainable(two, replace(RECIPE, mtp_weight=0.0))
    check_trainable(CONFIG, RECIPE)


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_count_the_pairs_of_the_whole_batch(tmp_path: Path) -> None:
    """Chats of very different lengths, so that the shares hold different numbers of learned pairs."""
    chats = [
        [{"role": "user", "content": "q" * (i % 9 + 1)}, {"role": "assistant", "content": "a" * (1 + 3 * (i % 13))}]
        for i in range(60)
    ]
    data = tmp_path / "chats.jsonl"
    data.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    lines = []
    for size in (1, 2):
        folder = tmp_path / str(size)
        folder.mkdir()
        command, environment = torchrun(size, folder, data, "steps=5", "mtp_every=1", "quantize=none")
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        lines.append(first_line(folder / "out"))
    assert lines[0]["mtp_loss"] == pytest.approx(lines[1]["mtp_loss"], rel=1e-6)
    assert lines[0]["mtp_loss"] > 0.5 * lines[0]["loss"]  # a mean beside a mean
