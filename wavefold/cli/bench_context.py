"""`wavefold bench context`: prefill and decode rate, cache bytes and peak memory at growing contexts."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.models import add_arithmetic, arithmetic_of, model_of

if TYPE_CHECKING:
    import torch

    from wavefold.bench.context import ContextRow
    from wavefold.model import Transformer

HELP = "prefill and decode rate, cache bytes and peak memory at growing contexts"
REPEATS = 1
MB = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", type=Path, help="a model's folder (default: the shipped)")
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 16384, 65536], metavar="N",
                        help="tokens, in ascending order (default 4096 16384 65536)")  # fmt: skip
    parser.add_argument("--dense", action="store_true", help="the same weights with dense attention: a window over "
                        "the whole context and no entries, at most 65,536 tokens")  # fmt: skip
    parser.add_argument("--decode", type=int, default=16, metavar="N", help="tokens decoded at each (default 16)")
    parser.add_argument("--data", help="'stdlib' or a folder, whose held-out files are read (default: stdlib where "
                        "the model has a tokenizer, else random tokens)")  # fmt: skip
    add_arithmetic(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="activations of exact arithmetic (float32)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one a core)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")


def run(args: argparse.Namespace) -> int:
    """One line for each context; repeats run the whole course again."""
    from statistics import median

    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from wavefold import ops
    from wavefold.bench.circumstances import append, circumstances, described
    from wavefold.bench.context import check_contexts, dense_model, measure_contexts
    from wavefold.locate import model_folder

    folder = model_folder(args.model)
    model = model_of(folder, arithmetic_of(args), args.dtype, args.device, args.threads)
    if args.dense:
        model = dense_model(model, args.contexts[-1] + args.decode)
    tokens, text = text_for(args, folder, model)
    check_contexts(model.config, len(tokens), args.contexts, args.decode)
    runs: list[list[ContextRow]] = []
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        for number in range(args.repeats):
            task = progress.add_task(f"run {number + 1} of {args.repeats}", total=args.contexts[-1])

            def report(done: int, of: int, task: TaskID = task) -> None:
                progress.update(task, completed=done)

            runs.append(measure_contexts(model, tokens, args.contexts, args.decode, report))
    about = circumstances(args.repeats) | {
        "bench": "context", "model": str(folder), "dense": args.dense, "text": text,
        "kernels": described(model.runtime or ops.current()), "arithmetic": model.arithmetic.name,
        "dtype": str(model.arithmetic.dtype).removeprefix("torch."),
    }  # fmt: skip
    console = Console()
    console.print(
        f"{folder}, {about['arithmetic']} {about['dtype']}, {text}; {about['hardware']}, {about['threads']} threads, "
        f"{about['kernels']}, {about['repeats']} runs", soft_wrap=True, highlight=False,
    )  # fmt: skip
    table = Table("context", "prefill tokens/s", "decode ms/token", "spread", "cache MB", "planned MB", "peak RSS MB")
    for rows in zip(*runs, strict=True):
        decode = [1e3 * row.decode_s for row in rows]
        table.add_row(
            f"{rows[0].context:,}", f"{rows[0].context / median(r.prefill_s for r in rows):,.0f}",
            f"{median(decode):.2f}", f"{min(decode):.2f}-{max(decode):.2f}", f"{rows[0].cache_bytes / MB:.3f}",
            f"{rows[0].planned_bytes / MB:.3f}", f"{rows[0].peak_rss_bytes / MB:,.0f}",
        )  # fmt: skip
    console.print(table)
    if args.out:
        append(args.out, [about | {"run": number} | asdict(row) for number, rows in enumerate(runs) for row in rows])
    return 0


def text_for(args: argparse.Namespace, folder: Path, model: Transformer) -> tuple[torch.Tensor, str]:
    """Token ids [n] to read, and a description of their source."""
    import torch

    from wavefold.chat import Tokenizer
    from wavefold.data.corpus import load_corpus

    if not (folder / "tokenizer.json").exists():
        if args.data:
            raise ValueError(f"{folder}: holds no tokenizer.json, which --data needs; leave --data out")
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, model.config.vocab_size, (args.contexts[-1],), generator=generator), "random tokens"
    tokenizer, data = Tokenizer.load(folder), args.data or "stdlib"
    ids: list[int] = []
    corpus, source = load_corpus(data), f"held-out files of {data}"
    for number, document in enumerate((*corpus.held_out, *corpus.train)):
        if len(ids) >= args.contexts[-1] and number >= len(corpus.held_out):
            break
        ids += tokenizer.encode_document(document.text)
        if number == len(corpus.held_out):
            source = f"all files of {data}, the held-out ones first"
    return torch.tensor(ids), source
