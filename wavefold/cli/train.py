"""`wavefold train`: a model of the family from text, on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavefold.train.trainer import Progress, Recipe

HELP = "train a model on a folder of text, or on the Python standard library"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags. The recipe's default to the nano preset's run (docs/training.md)."""
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for state, log and model; resumes what is there"
    )
    parser.add_argument(
        "--data", default="stdlib", help="'stdlib' (the shipped file list) or a folder (default stdlib)"
    )
    parser.add_argument("--config", default="nano", help="a preset or a config.json (default nano)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="activations (bfloat16)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--seq-len", type=int, help="tokens in a sequence")
    parser.add_argument("--batch-tokens", type=int, help="tokens in a step")
    parser.add_argument("--peak-lr", type=float, help="highest learning rate")
    parser.add_argument("--warmup", type=int, help="steps of linear warm-up")
    parser.add_argument("--mtp-every", type=int, help="train the MTP module on every n-th step")
    parser.add_argument("--eval-every", type=int, help="steps between evaluations on the held-out files")
    parser.add_argument("--save-every", type=int, help="steps between saved states")
    parser.add_argument("--seed", type=int, help="of the first weights and of the order of the data")


def run(args: argparse.Namespace) -> int:
    """Train, export, evaluate the export, and write `report.json` and `curve.svg`."""
    import torch

    from wavefold.chat.tokenizer import Tokenizer, train_tokenizer
    from wavefold.checkpoint import load
    from wavefold.cli.init import config_of
    from wavefold.ops import Arithmetic
    from wavefold.train.batches import Batches
    from wavefold.train.corpus import load_corpus
    from wavefold.train.export import export
    from wavefold.train.group import Group
    from wavefold.train.objective import Objective, evaluate
    from wavefold.train.report import draw_curve, held_out_report, hours_of
    from wavefold.train.start import new_model
    from wavefold.train.trainer import Recipe, Trainer

    if args.threads:
        torch.set_num_threads(args.threads)
    given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(Recipe)}
    recipe = Recipe(**{name: value for name, value in given.items() if value is not None})
    config = config_of(args.config)
    corpus = load_corpus(args.data)
    args.out.mkdir(parents=True, exist_ok=True, mode=0o700)
    group = Group()
    if group.first and not (args.out / "tokenizer.json").exists():
        train_tokenizer((d.text for d in corpus.train), config.vocab_size).save(args.out)
    group.wait()
    tokenizer = Tokenizer.load(args.out)
    train, held_out = (
        [tokenizer.encode_document(d.text) for d in documents] for documents in (corpus.train, corpus.held_out)
    )
    batches = Batches(train, recipe.seq_len, recipe.batch_tokens, recipe.seed)
    held = Batches(held_out, recipe.seq_len, recipe.batch_tokens, 0)
    held_batches = [held(i) for i in range(held.per_epoch)]
    if group.first:
        print(
            f"{len(train)} files, {batches.num_tokens} tokens to train on; {len(held_out)} held out, {held.num_tokens}"
        )

    dtype = getattr(torch, args.dtype)
    trainer = Trainer(
        new_model(config, Arithmetic("exact", dtype), recipe.seed), batches, held_batches, recipe, args.out, group
    )
    with Reporter(recipe, trainer.step, args.out) if group.first else nullcontext(lambda progress: None) as reporter:
        trainer.run(reporter)
    trained = trainer.evaluate()
    group.leave()
    if not group.first:
        return 0

    model_dir = args.out / "model"
    export(trainer.masters, model_dir)
    tokenizer.save(model_dir)
    exported = load(model_dir, dtype=dtype)
    nats, tokens = evaluate(Objective(exported), held_batches)
    assert nats / tokens == trained, "the export does not compute what was trained"
    report = held_out_report(nats / tokens, tokens, corpus.held_out)
    facts = dataclasses.asdict(report) | {
        "recipe": dataclasses.asdict(recipe), "hours": hours_of(args.out / "log.jsonl"),
        "processes": group.size, "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    (args.out / "report.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw_curve(args.out / "log.jsonl", report.num_bytes / report.num_tokens, args.out / "curve.svg")
    print(f"held-out files, {report.num_bytes} bytes, bits per byte:")
    print(f"  model {report.model:.3f}   xz -9 {report.xz:.3f}   gzip -9 {report.gzip:.3f}")
    print(f"the model is in {model_dir}; try: wavefold run {model_dir} -p 'def fibonacci(n):'")
    return 0


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
                if value is not None:
                    self._board.add_scalar(name, value, progress.step)


def _tensorboard(folder: Path):  # type: ignore[no-untyped-def]
    """A writer, or None, said once, where the optional dependency is absent."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard log: pip install 'wavefold[train]' for one (log.jsonl has the same)", file=sys.stderr)
        return None
    return SummaryWriter(str(folder))
