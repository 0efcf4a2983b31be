"""The training loop: batch -> quantised forward -> loss -> gradients -> AdamW -> log; state now and then.

A step depends on the seed, the step number and the state before it, and on nothing else: a run that was killed and
resumed writes the same log as one that was not.
"""

from __future__ import annotations

import json
import math
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
from wavefold.train.objective import Objective, evaluate
from wavefold.train.optimizer import LoadBalance, adamw, learning_rate
from wavefold.train.state import load_state, optimizer_tensors, restore_optimizer, save_state


@dataclass(frozen=True)
class Recipe:
    """All that decides a run beside its data and model; the defaults train the nano preset. Lengths in tokens."""

    steps: int = 4500
    seq_len: int = 1024
    batch_tokens: int = 2048
    peak_lr: float = 2e-3
    warmup: int = 150
    weight_decay: float = 0.5
    clip: float = 1.0
    mtp_weight: float = 0.3
    mtp_every: int = 4
    eval_every: int = 900
    save_every: int = 300
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

    def __init__(self, model: Transformer, batches: Batches, held_out: list[PackedBatch], recipe: Recipe, out: Path):
        self.model, self.batches, self.held_out, self.recipe, self.out = model, batches, held_out, recipe, out
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
        with (self.out / "log.jsonl").open("a", buffering=1) as log:
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
        with torch.no_grad():
            values = self._values()
            nats, tokens = evaluate_with(self.objective, values, self.held_out)
        self.balance.forget()
        return nats / tokens

    def _train_step(self) -> dict[str, Any]:
        recipe = self.recipe
        packed = self.batches(self.step)
        with_mtp = bool(self.model.mtp) and recipe.mtp_weight > 0 and self.step % recipe.mtp_every == 0
        loss, mtp_loss = functional_call(self.objective, self._values(), (packed, with_mtp))
        total = loss if mtp_loss is None else loss + recipe.mtp_weight * mtp_loss
        if not math.isfinite(float(total.detach())):
            raise FloatingPointError(
                f"step {self.step + 1}: the loss is {float(total.detach())}; the last good state is kept"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._trained, recipe.clip)
        lr = learning_rate(self.step, recipe.peak_lr, recipe.warmup, recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return {
            "step": self.step + 1,
            "loss": float(loss.detach()),
            "mtp_loss": None if mtp_loss is None else float(mtp_loss.detach()),
            "lr": lr,
            "grad_norm": float(norm),
            "load": self.balance.step(),
            "tokens": len(packed.tokens),
        }

    def _values(self) -> dict[str, torch.Tensor]:
        return {f"model.{name}": value for name, value in self.masters.values(self.model.arithmetic.dtype).items()}

    def _save(self) -> None:
        tensors: dict[str, torch.Tensor] = {f"master.{name}": p for name, p in self.model.named_parameters()}
        tensors |= optimizer_tensors(self.optimizer, self._names)
        save_state(self.out / "state", self.step, tensors, {"recipe": asdict(self.recipe)})

    def _resume(self) -> None:
        state = load_state(self.out / "state")
        log = self.out / "log.jsonl"
        if state is None:
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
        lines = log.read_text().splitlines(keepends=True)[: self.step]
        log.write_text("".join(lines))


def evaluate_with(
    objective: Objective, values: dict[str, torch.Tensor], batches: list[PackedBatch]
) -> tuple[float, int]:
    """`evaluate` with parameters swapped for `values`."""
    return functional_call(_Evaluation(objective), {f"objective.{k}": v for k, v in values.items()}, (batches,))


class _Evaluation(torch.nn.Module):
    def __init__(self, objective: Objective):
        super().__init__()
        self.objective = objective

    def forward(self, batches: list[PackedBatch]) -> tuple[float, int]:
        return evaluate(self.objective, batches)
