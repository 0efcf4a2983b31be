"""The files at the end of a run: the exported model, adapters, a report with a curve.

The export is loaded again: its tensors have to be those of the run, bit for bit, and it is evaluated.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wavefold.atomic import write_json
from wavefold.checkpoint import load
from wavefold.checkpoint.transformers_layout import save_transformers
from wavefold.data.batches import PackedBatch
from wavefold.model import Transformer
from wavefold.model.official import official_tensors
from wavefold.train.export import export, origin_of
from wavefold.train.folder import REPORT
from wavefold.train.identity import Identity, digest_of
from wavefold.train.kept_delta import kept_products, kept_report
from wavefold.train.lora import save_adapters
from wavefold.train.objective import Evaluated, Objective, evaluate
from wavefold.train.options import Options
from wavefold.train.peft_layout import save_peft
from wavefold.train.recipe import Recipe
from wavefold.train.report import draw_curve, held_out_report, hours_of
from wavefold.train.texts import Text
from wavefold.train.trainer import Trainer

ORDER = 1e-5
"""What another order of the same sums may change in the loss, relative.

One process sums experts otherwise than the waves of several, and on AVX2 the kernels multiply few rows by FP4 otherwise
than by the same values in bfloat16.
"""


@dataclass(frozen=True)
class Outcome:
    """A finished run. `report`: content of report.json ("nats_a_token", "tokens", "hours", "recipe" and more).

    For text the report also has bits per byte: "model", "xz", "gzip". `was_finished`: True if the run was already
    finished, after `steps` steps, and nothing was changed.
    """

    model: Path
    steps: int
    report: dict[str, Any]
    was_finished: bool = False


def outcome_of(out: Path, steps: int, was_finished: bool) -> Outcome:
    """Returns the outcome of the finished run in `out`."""
    return Outcome(out / "model", steps, json.loads((out / REPORT).read_text()), was_finished)


def is_whole(out: Path, recipe: Recipe, transformers: bool) -> bool:
    """True if `out` has all files of a finished run."""
    names = ["model/config.json", *["transformers/config.json"] * transformers]
    names += ["adapters.safetensors", "adapter/adapter_config.json"] * bool(recipe.lora_rank)
    return all((out / name).is_file() for name in names)


def export_model(options: Options, text: Text, model: Transformer, tensors: dict[str, torch.Tensor]) -> None:
    """Writes the model, and if requested also in the layout of transformers."""
    out = options.out
    origin = origin_of(model.config, options.init)
    export(model.config, tensors, out / "model", origin, lambda folder: text.tokenizer.save(folder))
    if options.transformers:
        save_transformers(load(out / "model"), out / "transformers")


def export_adapters(
    options: Options, trainer: Trainer, gathered: dict[str, torch.Tensor], base: str
) -> dict[str, Any]:  # fmt: skip
    """Writes the adapters alone, in the official layout and in that of PEFT. Returns their entries of the report."""
    save_adapters(trainer.model, gathered, options.out / "adapters.safetensors", base)
    save_peft(trainer.model, gathered, options.out / "adapter", options.recipe, str(options.init))
    return {"adapters": kept_report(kept_products(trainer.masters, gathered))}


def report_run(
    options: Options, text: Text, model: Transformer, tensors: dict[str, torch.Tensor], held_out: list[PackedBatch],
    trained: float, num_processes: int, run_identity: Identity, adapters: dict[str, Any], evaluated: Evaluated,
) -> Outcome:  # fmt: skip
    """Compares the export with the trained model, and writes the report, which ends the run.

    Raises RuntimeError for files that do not have the run's tensors, or that evaluate to something else.
    """
    out, recipe = options.out, options.recipe
    exported = load(out / "model", model.arithmetic.name, model.arithmetic.dtype)
    _check_tensors(out / "model", exported, tensors)
    exported.arithmetic = model.arithmetic
    nats, tokens = evaluate(Objective(exported), held_out, evaluated)
    if recipe.quantize == "fp4" and not math.isclose(nats / tokens, trained, rel_tol=ORDER):
        raise RuntimeError(f"{out / 'model'}: evaluates to {nats / tokens}, but what was trained to {trained}")
    report: dict[str, Any] = {
        "nats_a_token": nats / tokens, "tokens": tokens, "recipe": dataclasses.asdict(recipe),
        "hours": hours_of(out / "log.jsonl"), "processes": num_processes, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "run": digest_of(run_identity), **adapters,
    }  # fmt: skip
    if text.held_out_text:
        compared = held_out_report(nats / tokens, tokens, text.held_out_text)
        report |= dataclasses.asdict(compared)
        draw_curve(out / "log.jsonl", compared.num_bytes / compared.num_tokens, out / "curve.svg")
    write_json(out / REPORT, report)
    return outcome_of(out, recipe.steps, was_finished=False)


def _check_tensors(folder: Path, exported: Transformer, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in official_tensors(exported):
        if not torch.equal(_bytes(tensor), _bytes(tensors[name])):
            raise RuntimeError(f"{folder}: {name} is not what the run exported; the disk or the files are damaged")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
