"""The training loop: batch -> quantized forward -> losses -> gradients -> Muon and AdamW -> log, and states.

A step depends only on the seed, the step number and the state before it. So a run that was killed and resumed writes
the same log as one that was not.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavefold.atomic import write_text
from wavefold.data.batches import IGNORED, PackedBatch
from wavefold.model import Transformer
from wavefold.model.training_pass import AttentionStage, TrainingPass
from wavefold.ops.native.heap import keep_freed_memory
from wavefold.system import Notice
from wavefold.train import schedule
from wavefold.train.anticipate import Anticipation
from wavefold.train.fake_quant import Masters, check_quantized, quantized_share
from wavefold.train.identity import GoingOn, Identity, check_same_run, identity_of
from wavefold.train.kept_delta import kept_products, kept_share
from wavefold.train.objective import Evaluated, Objective, evaluate
from wavefold.train.optimizer import Optimizer, move_biases
from wavefold.train.recipe import Recipe
from wavefold.train.sharding import Shards, share_experts
from wavefold.train.start import check_trainable
from wavefold.train.state import load_tensors, newest_state, remove_newer, save_state, stored_shapes
from wavefold.train.stopping import Stopped, Stopping
from wavefold.waves.group import Group

NOTHING = PackedBatch(torch.zeros(2, dtype=torch.int64), torch.full((2,), IGNORED), (2,))
"""A dummy batch for a process with no sequences: it must still join the all-gathers."""


@dataclass(frozen=True)
class Progress:
    """One line of the log. Losses are nats per learned target: `loss` one position ahead, `mtp_loss` two ahead.

    `mtp_loss` is None if the MTP module did not run, or if the batch has no learned target two positions ahead.
    `quantized` is the share of weights of a routed expert, another one each step, that are values of its format in the
    forward pass: the minimum over processes. Less than 1 means that quantization is off. `load` is the largest load of
    an expert over the mean load. `adapters_kept` is the share of the adapters' delta that the format of the base keeps
    (`kept_delta`). It is None without adapters and at steps without evaluation.
    """

    step: int
    loss: float
    mtp_loss: float | None
    index_loss: float | None
    balance_loss: float | None
    attention: str
    anticipated: bool
    quantized: float
    lr: float
    grad_norm: float
    load: float
    tokens: int
    seq_len: int
    adapters_kept: float | None
    tokens_per_s: float
    held_out: float | None = None


class Trainer:
    """Trains `model` (float32 masters, or adapters on a packed one) on `batches`. Writes log and states to `out`.

    `log.jsonl` has a line for each step. The run resumes from the newest state in `out`. `identity`: identity of the
    run (None: only the recipe). `going_on`: allowed differences to the state. Raises ValueError for other differences,
    and FloatingPointError if a loss or the norm of the gradients is not finite; the last good state stays.
    """

    def __init__(
        self,
        model: Transformer,
        batches: Callable[[int], PackedBatch],
        held_out: list[PackedBatch],
        recipe: Recipe,
        out: Path,
        group: Group | None = None,
        identity: Identity | None = None,
        going_on: GoingOn = GoingOn(),  # noqa: B008  frozen
    ):
        self.model, self.batches, self.held_out, self.recipe, self.out = model, batches, held_out, recipe, out
        self.group = group or Group()
        self.identity = identity or identity_of(recipe)
        self.going_on = going_on
        longest, limit = max(length for _, length in recipe.length_stages), model.config.max_position_embeddings
        if longest > limit:
            raise ValueError(
                f"length_stages = {recipe.length_stages} is not allowed; expected sequences of at most "
                f"max_position_embeddings = {limit} tokens"
            )
        if recipe.expert_waves and recipe.lora_rank:
            raise ValueError(
                "expert_waves and lora_rank together are not allowed; adapters leave the experts as they are"
            )
        check_trainable(model.config, recipe)
        waves = share_experts(model, self.group, recipe.expert_waves) if recipe.expert_waves else None
        self.masters = Masters(model, recipe.quantize)
        self.objective = Objective(model, self.masters, recipe.recompute)
        check_quantized(self.masters)
        self.shards = Shards(self.objective, self.group, waves)
        self.optimizer = Optimizer(self.shards, model, recipe)
        self.anticipation = Anticipation(recipe.anticipate, recipe.spike)
        self.step = 0
        keep_freed_memory()  # of the process: each step allocates the same tensors
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._resume()
        if recipe.anticipate and self.step == 0:
            self._save()  # a spike before the next state goes back to this one

    def run(
        self,
        report: Callable[[Progress], None] = lambda progress: None,
        evaluated: Evaluated = lambda number, of: None,
    ) -> float:
        """Trains to the last step of the recipe and calls `report` after each step. Returns the final `evaluate()`.

        SIGTERM and Ctrl-C stop it after the step: a state is saved, and Stopped is raised in all processes.
        """
        with Stopping() as stopping:
            return self._run(report, evaluated, stopping)

    def _run(self, report: Callable[[Progress], None], evaluated: Evaluated, stopping: Stopping) -> float:
        held_out = None
        while self.step < self.recipe.steps:
            began = time.perf_counter()
            record = self._train_step()
            if record is None:  # a spike
                self._go_back()
                continue
            self.step += 1
            seconds = time.perf_counter() - began
            last = self.step == self.recipe.steps
            held_out = None
            if self.held_out and (last or self.step % self.recipe.eval_every == 0):
                held_out = self.evaluate(evaluated)
            progress = Progress(tokens_per_s=record["tokens"] / seconds, held_out=held_out, **record)
            self._write_log(asdict(progress))
            report(progress)
            asked = int(self.group.largest([float(stopping.signal)])[0])
            if last or asked or self.step % self.recipe.save_every == 0:
                self._save()
            if asked:
                raise Stopped(asked, f"{self.out}: ended at step {self.step}; the same command goes on from there")
        return self.evaluate(evaluated) if held_out is None else held_out  # a finished run has not evaluated yet

    def evaluate(self, evaluated: Evaluated = lambda number, of: None) -> float:
        """Returns the mean nats per token on the held-out batches, whose sequences have the last stage's length.

        Weights are quantized and indexed layers attend as in the step before. After the last step attention is sparse,
        as that of an export.
        """
        finished = self.step == self.recipe.steps
        attention = "sparse" if finished else schedule.attention(self.recipe, max(0, self.step - 1))
        nats, tokens = evaluate(self.objective, self.held_out, evaluated, self.group, attention)
        return nats / tokens

    def exported(self) -> dict[str, torch.Tensor]:
        """Returns the current model as tensors of an official checkpoint. All processes call it."""
        return self.masters.export(self.shards.gathered())

    def _train_step(self) -> dict[str, Any] | None:
        """Makes one step and returns its line of the log. After a spike it returns None and moves nothing."""
        recipe, step = self.recipe, self.step
        self.masters.quantize = schedule.quantize(recipe, step)
        rounds_index = self.masters.quantize == "fp4"  # the index is rounded when weights are
        self.model.arithmetic = replace(self.model.arithmetic, fp4_index=rounds_index)
        packed = self.batches(step)
        attention = schedule.attention(recipe, step)
        learns = attention != "warmup"
        with_mtp = bool(self.model.mtp) and recipe.mtp_weight > 0 and step % recipe.mtp_every == 0 and learns
        with_mtp = with_mtp and packed.num_pairs > 0
        training = TrainingPass(attention, balance=recipe.balance_weight > 0 and learns)
        if anticipated := self.anticipation.is_on(step):
            self._look_ahead(step + recipe.anticipate, attention)
            training.routes = self.anticipation.routes_of(step, packed, self.group)
        self.shards.drop_gradients()
        loss, mtp_loss, index_loss, balance_loss = self._backward(packed, with_mtp, training)
        norm = self.shards.clip_(recipe.clip)
        if self.anticipation.is_spike(loss if math.isfinite(norm) else math.inf, step):
            return None
        for name, value in (("loss", loss + mtp_loss + index_loss), ("norm of the gradients", norm)):
            if not math.isfinite(value):
                raise FloatingPointError(f"step {step + 1}: the {name} is {value}; the last good state is kept")
        self.anticipation.watch(loss)
        lr = schedule.learning_rate(recipe, step)
        self.optimizer.step(lr)
        loads = list(training.loads.values())
        self.group.sum_(loads)
        return {
            "step": step + 1,
            "loss": loss,
            "mtp_loss": mtp_loss if with_mtp else None,
            "index_loss": index_loss if attention != "dense" else None,
            "balance_loss": balance_loss if training.balance else None,
            "attention": attention,
            "anticipated": anticipated,
            "quantized": self.group.least(quantized_share(self.masters, step)),
            "lr": lr,
            "grad_norm": norm,
            "load": move_biases(
                self.model,
                dict(zip(training.loads, loads, strict=True)),
                recipe.balance_speed if learns and not recipe.lora_rank else 0.0,
            ),
            "tokens": len(packed.tokens),
            "seq_len": max(packed.lengths),
            "adapters_kept": self._adapters_kept(step + 1),
        }

    def _adapters_kept(self, step: int) -> float | None:
        """Returns `adapters_kept` of the log after `step` steps. All processes call it."""
        recipe = self.recipe
        if not recipe.lora_rank or (step != recipe.steps and step % recipe.eval_every):
            return None
        return kept_share(kept_products(self.masters, self.shards.gathered()))

    def _backward(
        self, packed: PackedBatch, with_mtp: bool, training: TrainingPass
    ) -> tuple[float, float, float, float]:
        """Computes gradients of the mean losses of the batch, summed over processes. Returns the means."""
        recipe = self.recipe
        share = packed.share(self.group.rank, self.group.size)
        here = float(bool(share.lengths))
        losses = self.objective(share if share.lengths else NOTHING, with_mtp, training)
        parts = losses.next_token, losses.mtp, losses.index, losses.balance
        counts = packed.num_targets, max(1, packed.num_pairs), len(packed.tokens), len(packed.tokens)
        weights = 1.0, schedule.mtp_weight(recipe, self.step), recipe.index_weight, recipe.balance_weight
        if training.attention == "warmup":
            weights = 0.0, 0.0, recipe.index_weight, 0.0
        terms = [here * weight / count * part for weight, count, part in zip(weights, counts, parts, strict=True)
                 if weight and part.requires_grad]  # fmt: skip
        if terms:
            torch.stack(terms).sum().backward()
        if not here:
            training.loads = {layer: torch.zeros_like(load) for layer, load in training.loads.items()}
        self.shards.collect_gradients()
        means = self.group.sums([here * float(part.detach()) / n for part, n in zip(parts, counts, strict=True)])
        return means[0], means[1], means[2], means[3]

    @torch.no_grad()
    def _look_ahead(self, step: int, attention: AttentionStage) -> None:
        """Chooses the experts for a coming batch by the current weights."""
        packed = self.batches(step)
        share = packed.share(self.group.rank, self.group.size)
        training = TrainingPass(attention)
        self.objective(share if share.lengths else NOTHING, False, training)
        self.anticipation.keep(step, training.chosen, packed, self.group)

    def _go_back(self) -> None:
        """Goes back to the newest state of `save_every`, or the first weights, and starts anticipatory routing.

        The states of stops are removed, so a run that was stopped goes back as an undisturbed one does.
        """
        spike = self.step
        self._resume(self.recipe.save_every)
        remove_newer(self.out / "state", self.step, self.group)
        self.anticipation.begin(self.step)
        self.anticipation.until = max(self.anticipation.until, spike + self.recipe.anticipate)

    def _write_log(self, line: dict[str, Any]) -> None:
        if self.group.first:
            with (self.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")

    def _masters(self) -> dict[str, Tensor]:
        """Returns the trained tensors by their names in a state: all parameters, or the adapters alone."""
        parameters = self.shards.parameters()
        names = self.shards.trained if self.recipe.lora_rank else parameters
        return {f"master.{name}": parameters[name] for name in names}

    def _save(self) -> None:
        tensors = self._masters()
        moments = self.shards.named(self.optimizer.tensors().items())
        tensors |= {f"optimizer.{name}": moment for name, moment in moments.items()}
        tensors |= {f"routes.{name}": ids for name, ids in self.anticipation.tensors().items()}
        record = {"run": self.identity, "anticipation": self.anticipation.record()}
        every = self.recipe.save_every if self.recipe.anticipate else 1
        save_state(self.out / "state", self.step, tensors, record, self.group, every)

    def _resume(self, every: int = 1) -> None:
        """Goes on from the newest state. `every`: one after a multiple of so many steps is preferred."""
        state = newest_state(self.out / "state", every)
        self.group.wait()  # all processes have read before any writes
        log = self.out / "log.jsonl"
        if state is None:
            if self.group.first and log.exists():
                warnings.warn(f"{log}: was of a run without a state; begun anew", Notice, stacklevel=2)
                log.unlink()
            return
        folder, record = state
        changes = check_same_run(self.out, record.get("run", {}), self.identity, self.going_on)
        self.step = record["step"]
        shapes = stored_shapes(folder)
        moments = self.optimizer.empty(_under("optimizer.", shapes))
        routes = {name: torch.empty(shapes[f"routes.{name}"], dtype=torch.int64) for name in _under("routes.", shapes)}
        tensors = self._masters()
        tensors |= {f"optimizer.{name}": t for name, t in self.shards.named(moments.items()).items()}
        tensors |= {f"routes.{name}": ids for name, ids in routes.items()}
        load_tensors(folder, tensors, self.group)
        self.optimizer.restore(moments)
        self.anticipation.restore(record["anticipation"], routes)
        if not self.group.first:
            return
        lines = _lines_until(log, self.step)
        for part in changes:
            before, now = (identity["recipe"][part] if part == "steps" else identity[part]
                           for identity in (record["run"], self.identity))  # fmt: skip
            line = json.dumps({"step": self.step, "changed": part, "from": before, "to": now}) + "\n"
            lines += [line] * (line not in lines)
        write_text(log, "".join(lines))


def _lines_until(log: Path, step: int) -> list[str]:
    """Returns the lines of a log up to a step. A missing log gives no lines and a notice."""
    if not log.is_file():
        warnings.warn(f"{log}: is missing; a new one begins after step {step}", Notice, stacklevel=2)
        return []
    lines = log.read_text(errors="replace").splitlines()
    return [f"{line}\n" for line in lines if _step_of(line) <= step]


def _step_of(line: str) -> int | float:
    """Returns the step of a line of the log, or infinity for a truncated line."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _under(prefix: str, names: dict[str, torch.Size]) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
