"""`wavefold bench speed`: decode and prefill rates beside the limits of this machine, and beside a peer's."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.models import add_activations, add_arithmetic, add_huge_pages, arithmetic_of, model_of
from wavefold.gguf import is_gguf

if TYPE_CHECKING:
    from wavefold.bench.contestants import Contestant, Wavefold
    from wavefold.bench.speed import Row, Scales
    from wavefold.config import ModelConfig

HELP = "decode and prefill rates beside this machine's and a peer's"
REPEATS = 1
GB = 1e9
RATE_DEPTH = 16384


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", type=Path, help="a model's folder or GGUF file (default: the shipped)"
    )
    parser.add_argument("--depths", type=int, nargs="*", default=[0, 4096, 16384, 65536], metavar="N",
                        help="tokens in the cache when decoding begins (default 0 4096 16384 65536)")  # fmt: skip
    parser.add_argument(
        "--prompt", type=int, default=2048, metavar="N", help="tokens of a prompt (default 2048; 0: none)"
    )
    parser.add_argument("--decode", type=int, default=16, metavar="N", help="tokens decoded in a turn (default 16)")
    parser.add_argument("--peer", choices=("llama.cpp", "transformers"), help="who takes turns with us")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="the same weights for llama.cpp; made of MODEL, with "
                        "--sdist, where it does not exist")  # fmt: skip
    parser.add_argument(
        "--sdist", type=Path, metavar="FILE", help="llama-cpp-python's .tar.gz, which holds the converter"
    )
    parser.add_argument("--kernels", action="store_true", help="each kernel alone too")
    add_arithmetic(parser)
    add_activations(parser)
    parser.add_argument("--batch-invariant", action="store_true", help="sums in one order, whatever the batch")
    parser.add_argument(
        "--isa", metavar="NAME", help="instruction set of the kernels: avx2, ... (default: the processor's best)"
    )
    add_huge_pages(parser)
    parser.add_argument("--threads", type=int, help="CPU threads (default: one a core)")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from wavefold import ops
    from wavefold.bench.circumstances import append, circumstances, described
    from wavefold.bench.contestants import Wavefold
    from wavefold.bench.speed import check, max_decoded, measure
    from wavefold.locate import model_path
    from wavefold.plan.machine import dense_rate, memory_read_rate
    from wavefold.system import huge_bytes, peak_rss_bytes

    folder = model_path(args.model)
    began = time.perf_counter()
    model = model_of(
        folder, arithmetic_of(args), "bfloat16", threads=args.threads, activations=args.activations,
        huge_pages=args.huge_pages,
    )  # fmt: skip
    load_s = time.perf_counter() - began
    config = model.config
    check(config, args.depths, args.prompt, args.decode, args.repeats)
    longest = max([args.prompt, *args.depths]) + max_decoded(args.decode, args.repeats)
    console, screen = Console(), Console(stderr=True)
    model.runtime = ops.current().but(isa=args.isa, batch_invariant=args.batch_invariant, activations=args.activations)
    with screen.status("loading") as status:
        contestants: list[Contestant] = [Wavefold(model, longest)]
        contestants += peers(args, folder, longest)
        rows = measure(contestants, config, args.depths, args.prompt, args.decode, args.repeats, status.update)
    about = circumstances(args.repeats) | {
        "bench": "speed", "model": str(folder), "kernels": described(model.runtime), "load_s": load_s,
        "batch_invariant": args.batch_invariant, "activations": args.activations, "peak_rss_bytes": peak_rss_bytes(),
        "huge_pages": args.huge_pages, "huge_bytes": huge_bytes(),
        "arithmetic": {contestant.name: contestant.arithmetic for contestant in contestants},
    }  # fmt: skip
    anonymous, mapped = huge_bytes()
    console.print(
        f"{folder}; {about['hardware']}, {about['threads']} threads, {about['kernels']}, {args.repeats} turns; loaded "
        f"in {load_s:.2f} s, peak memory {peak_rss_bytes() / GB:.2f} GB; "
        f"in 2 MiB pages {anonymous / GB:.2f} GB of memory and {mapped / GB:.2f} GB of files",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    console.print(table(rows, contestants, config, model.arithmetic.released, scales(folder, config)))
    lines = [about | line(row) for row in rows]
    if args.kernels:
        ours = contestants[0]
        assert isinstance(ours, Wavefold)
        lines += [about | rate for rate in kernel_rates(ours, memory_read_rate(), dense_rate())]
    if args.out:
        append(args.out, lines)
    return 0


def peers(args: argparse.Namespace, folder: Path, longest: int) -> Iterator[Contestant]:
    """The peer of `--peer`, loaded. Raises ValueError if it cannot be loaded."""
    import torch

    if args.peer == "transformers":
        from wavefold.bench.contestants import Transformers

        yield Transformers(folder)
    if args.peer == "llama.cpp":
        from wavefold.bench.llama_cpp import LlamaCpp, ensure_gguf

        gguf = folder if is_gguf(folder) else ensure_gguf(args.gguf, folder, args.sdist, torch.get_num_threads())
        yield LlamaCpp(gguf, longest, torch.get_num_threads())


def scales(path: Path, config: ModelConfig) -> Scales:
    """What a GGUF file's weights take, beside the official formats."""
    from wavefold.bench.speed import BY_FORMULA, scales_of
    from wavefold.checkpoint.count import count_files

    files = count_files(path, config) if is_gguf(path) else None
    return BY_FORMULA if files is None else scales_of(config, files)


def table(
    rows: list[Row], contestants: list[Contestant], config: ModelConfig, packed: bool, scales: Scales
) -> object:  # fmt: skip
    """A table of our rates, each with its bound, and the peers' rates."""
    from rich.table import Table

    from wavefold.bench.speed import decode_bytes, prompt_operations

    others = contestants[1:]
    columns = ["", "tokens/s", "spread", "of the bound", "machine", "outside native code"]
    for other in others:
        columns += [f"{other.name} tokens/s", "ours / theirs"]
    shown = Table(*columns, caption="; ".join(f"{c.name}: {c.arithmetic}" for c in contestants))
    for row in rows:
        tokens = 1 if row.kind == "decode" else row.tokens
        ours = row.seconds[contestants[0].name]
        if row.kind == "decode":
            label, amount, unit = (
                f"decode at {row.tokens:,}",
                float(decode_bytes(config, row.tokens, packed, scales)),
                "GB",
            )
            outside = f"{sum(row.seconds['outside native code']) / sum(ours):.1%}"
        else:
            label, amount, unit = f"prompt of {row.tokens:,}", prompt_operations(config, row.tokens), "GFLOP"
            outside = ""
        bound = f"{row.share(amount):.0%} of {amount / GB:,.2f} {unit}"
        limits = f"{min(row.machine) / GB:.1f}-{max(row.machine) / GB:.1f} {unit}/s"
        spread = f"{tokens / max(ours):.2f}-{tokens / min(ours):.2f}"
        median = row.median(contestants[0].name)
        cells = [label, f"{tokens / median:.2f}", spread, bound, limits, outside]
        for other in others:
            cells += [f"{tokens / row.median(other.name):.2f}", f"{row.ratio(other.name):.2f}"]
        shown.add_row(*cells)
    return shown


def line(row: Row) -> dict[str, object]:
    return {"what": row.kind, "tokens": row.tokens, "seconds": row.seconds, "machine": row.machine}


def kernel_rates(ours: Wavefold, memory: float, gemm: float) -> Iterator[dict[str, object]]:
    """Print a table of each kernel's rates, and yield them as lines of JSON."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from wavefold.bench.rates import all_rates

    shown = Table("kernel", "size", "ms", "GB/s", "of memory", "GFLOP/s", "of dense")
    for rate in all_rates(ours, min(RATE_DEPTH, ours.pool.blocks.num_blocks * 128 - 128), (1, 512), 3):
        read, done = rate.bytes / rate.seconds, rate.operations / rate.seconds
        shown.add_row(
            rate.kernel, rate.size, f"{1e3 * rate.seconds:.3f}", f"{read / GB:.1f}", f"{read / memory:.0%}",
            f"{done / GB:.0f}", f"{done / gemm:.0%}",
        )  # fmt: skip
        yield {"kernel": rate.kernel} | asdict(rate)
    Console().print(shown)
