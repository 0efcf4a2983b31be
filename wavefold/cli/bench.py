"""`wavefold bench`: measure this machine with a model. Tables on the screen, JSON lines with `--out`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli import bench_speed
from wavefold.cli.models import add_arithmetic, arithmetic_of, model_of

if TYPE_CHECKING:
    import torch

    from wavefold.bench.context import ContextRow
    from wavefold.model import Transformer

HELP = "measure speed, rates at growing contexts, and the cache as it is allocated"
MB = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    benches = parser.add_subparsers(dest="bench", required=True, metavar="speed|context|cache",
                                    help="what to measure")  # fmt: skip
    context = benches.add_parser(
        "context", help="prefill and decode rate, cache bytes and peak memory at growing contexts", allow_abbrev=False
    )
    context.add_argument("model", metavar="MODEL", nargs="?", type=Path, help="a model's folder (default: the shipped)")
    context.add_argument("--contexts", type=int, nargs="+", default=[4096, 16384, 65536], metavar="N",
                         help="tokens, in ascending order (default 4096 16384 65536)")  # fmt: skip
    context.add_argument("--dense", action="store_true", help="the same weights with dense attention: a window over "
                         "the whole context and no entries, at most 65,536 tokens")  # fmt: skip
    context.add_argument("--decode", type=int, default=16, metavar="N", help="tokens decoded at each (default 16)")
    context.add_argument("--data", help="'stdlib' or a folder, whose held-out files are read (default: stdlib where "
                         "the model has a tokenizer, else random tokens)")  # fmt: skip
    add_arithmetic(context)
    context.add_argument("--dtype", choices=("float32", "bfloat16"), help="activations of exact arithmetic (float32)")
    context.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    context.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")
    cache = benches.add_parser("cache", help="allocate and touch a cache; resident memory beside the plan",
                               allow_abbrev=False)  # fmt: skip
    cache.add_argument("model", metavar="MODEL|PRESET", nargs="+", help="model folders, config.json files or presets")
    cache.add_argument("--tokens", type=int, default=1_000_000, metavar="N", help="tokens (default 1000000)")
    cache.add_argument("--records", nargs="+", default=["packed"], metavar="NAME", help="packed, bfloat16, float32")
    speed = benches.add_parser(
        "speed", help="decode and prefill rates beside this machine's and a peer's", allow_abbrev=False
    )
    bench_speed.add_arguments(speed)
    for bench in (context, cache, speed):
        bench.add_argument("--repeats", type=int, default=1, help="runs of each (the table has medians)")
        bench.add_argument("--out", type=Path, help="file to append JSON lines to, one for each run and row")


def run(args: argparse.Namespace) -> int:
    if args.repeats < 1:
        raise ValueError(f"--repeats {args.repeats} is not allowed; expected 1 or more")
    return {"context": bench_context, "cache": bench_cache, "speed": bench_speed.run}[args.bench](args)


def bench_context(args: argparse.Namespace) -> int:
    """One line for each context; repeats run the whole course again."""
    from statistics import median

    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from wavefold.bench.circumstances import append, circumstances
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
        "arithmetic": model.arithmetic.name, "dtype": str(model.arithmetic.dtype).removeprefix("torch."),
    }  # fmt: skip
    console = Console()
    console.print(
        f"{folder}, {about['arithmetic']} {about['dtype']}, {text}; {about['hardware']}, {about['threads']} threads, "
        f"{about['repeats']} runs", soft_wrap=True, highlight=False,
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


def bench_cache(args: argparse.Namespace) -> int:
    """One line for each model and record, and an exit code of 1 where memory is more than 1 % off the plan."""
    from rich.console import Console
    from rich.table import Table

    from wavefold.bench.circumstances import append, circumstances
    from wavefold.bench.pools import allocate
    from wavefold.locate import config_of

    about = circumstances(args.repeats) | {"bench": "cache"}
    table = Table("model", "records", "tokens", "planned GiB", "allocated GiB", "resident GiB", "resident / planned",
                  title=f"a pool and one sequence, allocated and touched; {about['hardware']}")  # fmt: skip
    lines: list[dict[str, object]] = []
    far = False
    for name in args.model:
        config = config_of(name)
        for records in args.records:
            for number in range(args.repeats):
                row = allocate(config, args.tokens, records)
                ratio = row.rss_bytes / row.planned_bytes
                far |= abs(ratio - 1) > 0.01
                sizes = (f"{size / 2**30:.4f}" for size in (row.planned_bytes, row.allocated_bytes, row.rss_bytes))
                table.add_row(name, records, f"{args.tokens:,}", *sizes, f"{ratio:.4f}")
                lines.append(about | {"model": name, "run": number} | asdict(row))
    Console().print(table)
    if args.out:
        append(args.out, lines)
    return int(far)
