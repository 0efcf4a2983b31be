"""`wavefold train`: a model of the family from text, on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavefold.config import ModelConfig
    from wavefold.model import Transformer
    from wavefold.train.recipe import Recipe
    from wavefold.train.trainer import Progress

HELP = "train a model on a folder of text, or on the Python standard library"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags. The recipe's defaults are the nano preset's run (docs/training.md)."""
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for state, log and model; resumes what is there"
    )
    parser.add_argument(
        "--data", default="stdlib",
        help="'stdlib' (the shipped file list), a folder, a .txt list of files, a .jsonl of chats, a folder of token "
        "shards, datasets:NAME[:SPLIT[:COLUMN]]; instruct: before one makes chats of its docstrings (default stdlib)",
    )  # fmt: skip
    parser.add_argument(
        "--long-chats", choices=("refuse", "truncate", "drop"), default="refuse",
        help="chats longer than the shortest sequence of length_stages: an error (refuse), without their earliest "
        "turns (truncate), or left out (drop); text is cut into sequences, chats never are (default refuse)",
    )  # fmt: skip
    parser.add_argument("--config", default="nano", help="a preset or a config.json (default nano)")
    parser.add_argument("--recipe", type=Path, help="a Python file that defines recipe = Recipe(...); it is run")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        action="extend",
        metavar="KEY=VALUE",
        help="other values for keys of the recipe, e.g. steps=100; of a key that comes twice the last value counts",
    )
    parser.add_argument("--init", type=Path, metavar="MODEL", help="begin with the weights of this checkpoint")
    parser.add_argument("--transformers", action="store_true", help="write the model in transformers' layout too")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="activations (bfloat16)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")


def run(args: argparse.Namespace) -> int:
    """Train, export, evaluate the export, and write `report.json` and `curve.svg`."""
    import torch

    from wavefold.checkpoint import load
    from wavefold.checkpoint.transformers_layout import save_transformers
    from wavefold.cli.init import config_of
    from wavefold.cli.texts import read_text
    from wavefold.parallel.group import Group
    from wavefold.train import schedule
    from wavefold.train.batches import Batches, fixed_batches
    from wavefold.train.export import export
    from wavefold.train.fim import FillInMiddle
    from wavefold.train.kept_delta import kept_products, kept_report
    from wavefold.train.lora import save_adapters
    from wavefold.train.objective import Objective, evaluate
    from wavefold.train.peft_layout import save_peft
    from wavefold.train.report import draw_curve, held_out_report, hours_of
    from wavefold.train.start import check_trainable
    from wavefold.train.trainer import Trainer

    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = recipe_of(args)
    config = config_of(str(args.init) if args.init else args.config)
    check_trainable(config, recipe)
    args.out.mkdir(parents=True, exist_ok=True, mode=0o700)
    group = Group()
    text = read_text(
        args.data, args.out, config.vocab_size, args.init, group, schedule.shortest_seq_len(recipe), args.long_chats
    )
    fim = FillInMiddle.of(text.tokenizer, recipe.fim_rate) if recipe.fim_rate else None
    batches = Batches(text.train, recipe.seed, functools.partial(schedule.sizes, recipe), fim)
    held_out = fixed_batches(text.held_out, schedule.seq_len(recipe, recipe.steps - 1), recipe.batch_tokens)
    if group.first:
        print(
            f"{len(text.train)} documents, {batches.num_tokens} tokens to train on; {len(text.held_out)} held out, "
            f"{sum(len(packed.tokens) for packed in held_out)} tokens"
        )

    model = first_model(args, config, recipe)
    trainer = Trainer(model, batches, held_out, recipe, args.out, group)
    with Reporter(recipe, trainer.step, args.out) if group.first else nullcontext(lambda progress: None) as reporter:
        trained = trainer.run(reporter)
    tensors = trainer.exported()
    whole = trainer.shards.gathered() if recipe.lora_rank else {}
    group.leave()
    if not group.first:
        return 0

    model_dir = args.out / "model"
    export(config, tensors, model_dir)
    text.tokenizer.save(model_dir)
    if recipe.lora_rank:
        save_adapters(model, whole, args.out / "adapters.safetensors")
        save_peft(model, whole, args.out / "adapter", recipe, str(args.init))
    exported = load(model_dir, model.arithmetic.name, model.arithmetic.dtype)
    if args.transformers:
        save_transformers(exported, args.out / "transformers")
        text.tokenizer.save(args.out / "transformers")
    exported.arithmetic = model.arithmetic
    nats, tokens = evaluate(Objective(exported), held_out)
    # One process's experts are summed in another order than several ones' waves: there the last bits may differ.
    if recipe.quantise == "fp4" and not math.isclose(
        nats / tokens, trained, rel_tol=1e-5 if recipe.expert_waves else 0
    ):
        raise RuntimeError(f"{model_dir}: evaluates to {nats / tokens}, but what was trained to {trained}")
    facts = {
        "nats_a_token": nats / tokens, "tokens": tokens, "recipe": dataclasses.asdict(recipe),
        "hours": hours_of(args.out / "log.jsonl"), "processes": group.size, "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }  # fmt: skip
    if recipe.lora_rank:
        facts["adapters"] = kept_report(kept_products(trainer.masters, whole))
    if text.held_out_text:
        report = held_out_report(nats / tokens, tokens, text.held_out_text)
        facts |= dataclasses.asdict(report)
        draw_curve(args.out / "log.jsonl", report.num_bytes / report.num_tokens, args.out / "curve.svg")
        print(f"held-out files, {report.num_bytes} bytes, bits per byte:")
        print(f"  model {report.model:.3f}   xz -9 {report.xz:.3f}   gzip -9 {report.gzip:.3f}")
    else:
        print(f"held out: {nats / tokens:.4f} nats a token")
    (args.out / "report.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"the model is in {model_dir}; try: wavefold run {model_dir} -p 'def fibonacci(n):'")
    return 0


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe file's, or the default one, with what `--set` says."""
    from wavefold.train.recipe import Recipe, load_recipe
    from wavefold.train.settings import with_settings

    return with_settings(load_recipe(args.recipe) if args.recipe else Recipe(), args.set)


def first_model(args: argparse.Namespace, config: ModelConfig, recipe: Recipe) -> Transformer:
    """The masters that the run begins with, computing as the recipe says."""
    import torch

    from wavefold.checkpoint import load
    from wavefold.train.lora import add_adapters
    from wavefold.train.start import arithmetic_of, model_from, new_model

    arithmetic = arithmetic_of(recipe, getattr(torch, args.dtype))
    if recipe.lora_rank:
        if not args.init:
            raise ValueError("lora_rank needs a model to adapt; expected --init MODEL")
        model = load(args.init, arithmetic.name, arithmetic.dtype)
        model.arithmetic = arithmetic
        add_adapters(model, recipe.lora_rank, recipe.lora_alpha, recipe.seed)
        return model
    return model_from(args.init, arithmetic) if args.init else new_model(config, arithmetic, recipe.seed)


class Reporter:
    """Shows each step: a bar with loss, tokens/s and time left on a terminal, else a line now and then; TensorBoard."""

    def __init__(self, recipe: Recipe, first: int, out: Path):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(file=sys.stderr)
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("", total=recipe.steps, completed=first)
        self._every = max(1, recipe.steps // 50)
        self._board = _tensorboard(out / "tensorboard")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()

    def __call__(self, progress: Progress) -> None:
        text = f"loss {progress.loss:.3f}  {progress.tokens_per_s:.0f} tokens/s"
        self._bar.update(self._task, completed=progress.step, description=text)
        if progress.held_out is not None:
            text += f"  held out {progress.held_out:.4f} nats a token"
        if self._bar.disable and (progress.step % self._every == 0 or progress.held_out is not None):
            print(f"step {progress.step}  {text}", file=sys.stderr, flush=True)
        if self._board is not None:
            for name, value in dataclasses.asdict(progress).items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, progress.step)


def _tensorboard(folder: Path):  # type: ignore[no-untyped-def]
    """A writer, or None, said once, where the optional dependency is absent."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard log: pip install 'wavefold[train]' for one (log.jsonl has the same)", file=sys.stderr)
        return None
    return SummaryWriter(str(folder))
