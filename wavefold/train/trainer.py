"""The training loop: batch -> quantised forward -> loss -> gradients -> AdamW -> log; state now and then.

A step depends on the seed, the step number and the state before it, and on nothing else: a run that was killed and
resumed writes the same log as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call

from wavefold.model import Transformer
from wavefold.train.batches import Batches, PackedBatch
from wavefold.train.fake_quant import Masters
from wavefold.train.group import Group
from wavefold.train.objective import Objective, nats_of
from wavefold.train.optimizer import LoadBalance, adamw, learning_rate
from wavefold.train.state import load_state, optimizer_tensors, restore_optimizer, save_state


@dataclass(frozen=True)
class Recipe:
    """All that decides a run beside its data and model; the defaults train the nano preset. Lengths in tokens."""

    steps: int = 2600
    seq_len: int = 1024
    batch_tokens: int = 4096
    peak_lr: float = 1.6e-3
    warmup: int = 100
    weight_decay: float = 0.2
    clip: float = 1.0
    mtp_weight: float = 0.3
    mtp_every: int = 4
    eval_every: int = 500
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 0 or (value == 0 and name not in ("warmup", "weight_decay", "mtp_weight", "seed")):
                raise ValueError(f"{name} = {value} is not allowed; expected a positive number")


@dataclass(frozen=True)
class Progress:
    """One line of the log."""

    step: int
    loss: float
    mtp_loss: float | None
    lr: float
    grad_norm: float
    load: float
    tokens: int
    tokens_per_s: float
    held_out: float | None = None


class Trainer:
    """Trains `model` (float32 masters) on `batches`, with its log and state under `out`.

    `log.jsonl` has a line for each step. Resumes by itself from the newest state under `out`. Raises ValueError
    when that is of another recipe, and FloatingPointError, leaving the last good state, when a loss is not finite.
    """

    def __init__(
        self,
        model: Transformer,
        batches: Batches,
        held_out: list[PackedBatch],
        recipe: Recipe,
        out: Path,
        group: Group | None = None,
    ):
        self.model, self.batches, self.held_out, self.recipe, self.out = model, batches, held_out, recipe, out
        self.group = group or Group()
        self.masters = Masters(model)
        self.objective = Objective(model)
        self.balance = LoadBalance(model)
        trained = {name: p for name, p in self.masters.parameters().items() if p.requires_grad}
        self.optimizer = adamw(trained, recipe.weight_decay)
        self._names = {id(p): name for name, p in trained.items()}
        self._trained = list(trained.values())
        self.step = 0
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._resume()

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> None:
        """Train to the recipe's last step, reporting each."""
        with (self.out / "log.jsonl" if self.group.first else Path(os.devnull)).open("a", buffering=1) as log:
            while self.step < self.recipe.steps:
                began = time.perf_counter()
                facts = self._train_step()
                self.step += 1
                seconds = time.perf_counter() - began
                last = self.step == self.recipe.steps
                held_out = None
                if self.held_out and (last or self.step % self.recipe.eval_every == 0):
                    held_out = self.evaluate()
                progress = Progress(tokens_per_s=facts["tokens"] / seconds, held_out=held_out, **facts)
                log.write(json.dumps(asdict(progress)) + "\n")
                report(progress)
                if last or self.step % self.recipe.save_every == 0:
                    self._save()

    def evaluate(self) -> float:
        """Mean nats a token on the held-out batches, with the weights that an export would hold."""
        mine = range(self.group.rank, len(self.held_out), self.group.size)
        nats = [0.0] * len(self.held_out)
        with torch.no_grad():
            evaluation, values = _Nats(self.objective), self._values("objective.model.")
            for number in mine:
                nats[number] = functional_call(evaluation, values, (self.held_out[number],))
        self.balance.forget()
        return sum(self.group.sums(nats)) / sum(len(packed.tokens) for packed in self.held_out)

    def _train_step(self) -> dict[str, Any]:
        recipe = self.recipe
        packed = self.batches(self.step)
        with_mtp = bool(self.model.mtp) and recipe.mtp_weight > 0 and self.step % recipe.mtp_every == 0
        self.optimizer.zero_grad(set_to_none=True)
        loss, mtp_loss = self._backward(packed, with_mtp)
        if not math.isfinite(loss + mtp_loss):
            raise FloatingPointError(
                f"step {self.step + 1}: the loss is {loss + mtp_loss}; the last good state is kept"
            )
        norm = torch.nn.utils.clip_grad_norm_(self._trained, recipe.clip)
        lr = learning_rate(self.step, recipe.peak_lr, recipe.warmup, recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return {
            "step": self.step + 1,
            "loss": loss,
            "mtp_loss": mtp_loss if with_mtp else None,
            "lr": lr,
            "grad_norm": float(norm),
            "load": self.balance.step(self.group),
            "tokens": len(packed.tokens),
        }

    def _backward(self, packed: PackedBatch, with_mtp: bool) -> tuple[float, float]:
        """Gradients of the batch's mean loss, summed over the processes' shares; returns both losses."""
        share = packed.share(self.group.rank, self.group.size)
        part, mtp_part = len(share.tokens) / len(packed.tokens), share.num_pairs / max(1, packed.num_pairs)
        losses = [0.0, 0.0]
        if share.lengths:
            loss, mtp_loss = functional_call(self.objective, self._values("model."), (share, with_mtp))
            total = loss * part
            losses[0] = float(total.detach())
            if mtp_loss is not None and mtp_part:
                total = total + self.recipe.mtp_weight * mtp_part * mtp_loss
                losses[1] = float(mtp_loss.detach()) * mtp_part
            total.backward()
        for parameter in self._trained if self.group.size > 1 else ():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.group.sum_([parameter.grad for parameter in self._trained if parameter.grad is not None])
        loss_sum, mtp_sum = self.group.sums(losses)
        return loss_sum, mtp_sum

    def _values(self, prefix: str) -> dict[str, torch.Tensor]:
        return {f"{prefix}{name}": value for name, value in self.masters.values(self.model.arithmetic.dtype).items()}

    def _save(self) -> None:
        if not self.group.first:
            return
        tensors: dict[str, torch.Tensor] = {f"master.{name}": p for name, p in self.model.named_parameters()}
        tensors |= optimizer_tensors(self.optimizer, self._names)
        save_state(self.out / "state", self.step, tensors, {"recipe": asdict(self.recipe)})

    def _resume(self) -> None:
        state = load_state(self.out / "state")
        self.group.wait()  # until all have read, and before anybody writes
        log = self.out / "log.jsonl"
        if state is None:
            if self.group.first:
                log.unlink(missing_ok=True)
            return
        self.step, tensors, facts = state
        mine = asdict(self.recipe)
        other = {key: value for key, value in facts["recipe"].items() if mine.get(key) != value}
        if other:
            raise ValueError(
                f"{self.out}: holds the state of a run with {other}; resume with that, or use another folder"
            )
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"master.{name}"])
        restore_optimizer(self.optimizer, self._names, tensors)
        if self.group.first:
            lines = log.read_text().splitlines(keepends=True)[: self.step]
            log.write_text("".join(lines))


class _Nats(torch.nn.Module):
    """`nats_of` as a module, so that the parameters can be swapped for their quantised values."""

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective = objective

    def forward(self, packed: PackedBatch) -> float:
        return nats_of(self.objective, packed)
