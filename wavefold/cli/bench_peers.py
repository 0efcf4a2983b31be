"""`wavefold bench peers`: other engines' experts, and their whole models, beside ours."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.models import add_arithmetic, arithmetic_of
from wavefold.cli.terminal import wide_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from wavefold.bench.peers.contestants import Missing, PeerRow

HELP = "experts of freetoken and kt-kernel, models of llama.cpp and flyweight, beside ours"
REPEATS = 5
GB = 1e9
FILE_WIDTH = 110
"""Columns of a table that is not printed on a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", type=Path,
                        help="a checkpoint's folder, for whole models; without it experts alone")  # fmt: skip
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="the weights of MODEL for the peers; made of MODEL, "
                        "with --sdist, where it does not exist")  # fmt: skip
    parser.add_argument("--sdist", type=Path, metavar="FILE",
                        help="llama-cpp-python's .tar.gz, which holds the converter")  # fmt: skip
    parser.add_argument("--peers", nargs="+", metavar="NAME",
                        help="freetoken, kt-kernel, llama.cpp, flyweight (default: all)")  # fmt: skip
    parser.add_argument("--python", default=sys.executable, metavar="PATH",
                        help="the Python that the peers are installed in (default: this one)")  # fmt: skip
    parser.add_argument("--tokens", type=int, nargs="*", default=[1, 4, 16, 512], metavar="N",
                        help="tokens of a call of experts (default 1 4 16 512; none: no experts)")  # fmt: skip
    parser.add_argument("--config", default="flash", metavar="MODEL|PRESET",
                        help="whose sizes the experts have: a preset or config.json (default flash)")  # fmt: skip
    parser.add_argument("--experts", type=int, default=32, metavar="N", help="experts of a layer (default 32)")
    parser.add_argument("--layers", type=int, default=2, metavar="N",
                        help="layers of experts, taken in turn (default 2)")  # fmt: skip
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens of MODEL's prompt (default 128)")
    parser.add_argument("--decode", type=int, default=16, metavar="N", help="tokens decoded after it (default 16)")
    add_arithmetic(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of each (default: one a core)")


def run(args: argparse.Namespace) -> int:
    """One line of the table, and of JSON, for each measurement and contestant, and for each peer that did not run."""
    from rich.console import Console

    from wavefold.bench.circumstances import append, circumstances, kernels_in_use
    from wavefold.cli.flags import as_flags
    from wavefold.ops.threads import use_threads

    with as_flags():
        use_threads(args.threads)
    check_names(args.peers)
    about = circumstances(args.repeats) | {
        "bench": "peers", "kernels": kernels_in_use(), "arithmetic": arithmetic_of(args), "python": args.python,
        "model": args.model and str(args.model),
    }  # fmt: skip
    with Console(stderr=True).status("measuring") as status:
        rows, missing = measured(args, status.update)
    console = wide_console(FILE_WIDTH)
    console.print(f"{about['arithmetic']} arithmetic; kernels {about['kernels']}; {about['hardware']}, "
                  f"{about['threads']} threads", soft_wrap=True, highlight=False)  # fmt: skip
    show(console, rows, missing)
    if args.out:
        lines = [about | line(row, rows) for row in rows]
        append(args.out, lines + [about | {"peer": peer.name, "missing": peer.reason} for peer in missing])
    return 0


def check_names(names: list[str] | None) -> None:
    from wavefold.bench.peers import EXPERTS, MODELS

    known = [peer.name for peer in (*EXPERTS, *MODELS)]
    if other := [name for name in names or () if name not in known]:
        raise ValueError(f"--peers {other[0]} is not allowed; expected some of {', '.join(known)}")


def measured(args: argparse.Namespace, report: Callable[[str], None]) -> tuple[list[PeerRow], list[Missing]]:
    """The rows of experts and of whole models, and the peers that did not run."""
    import torch

    from wavefold.bench.llama_cpp import ensure_gguf
    from wavefold.bench.peers import EXPERTS, MODELS, experts, models
    from wavefold.bench.products import expert_shape
    from wavefold.locate import config_of, model_folder

    def wanted(name: str) -> bool:
        return not args.peers or name in args.peers

    rows: list[PeerRow] = []
    missing: list[Missing] = []
    arithmetic, peers = arithmetic_of(args), [peer for peer in EXPERTS if wanted(peer.name)]
    if args.tokens:
        shape = expert_shape(config_of(args.config), args.experts, args.layers)
        rows, missing = experts.measure(
            shape, args.layers, args.tokens, arithmetic, args.python, args.repeats, peers, report
        )
    if args.model:
        folder = model_folder(args.model)
        report("the GGUF file")
        gguf = ensure_gguf(args.gguf, folder, args.sdist, torch.get_num_threads())
        peers = [peer for peer in MODELS if wanted(peer.name)]
        more = models.measure(
            folder, gguf, args.prompt, args.decode, arithmetic, args.python, args.repeats, peers, report
        )
        rows, missing = rows + more[0], missing + more[1]
    return rows, missing


def show(console: Console, rows: list[PeerRow], missing: list[Missing]) -> None:
    """Print the table, and how to install the peers that did not run."""
    from rich.table import Table

    from wavefold.bench.peers.contestants import ours_of

    table = Table("", "who", "ms", "slowest", "GB/s", "GFLOP/s", "of the bound", "error", "of ours",
                  caption="error: of experts against float64, RMS; of models KL from exact float32, nats")  # fmt: skip
    before = None
    for row in rows:
        label = {"experts": f"{row.tokens} tokens", "prefill": f"prompt of {row.tokens}"}.get(
            row.kind, f"decode at {row.tokens}"
        )
        if label != before:
            table.add_section()
        read, done = row.bytes / row.median_s / GB, row.operations / row.median_s / GB
        table.add_row(
            label if label != before else "", row.name, f"{1e3 * row.median_s:.2f}", f"{1e3 * max(row.seconds):.2f}",
            f"{read:.1f}" if read else "", f"{done:.0f}" if done else "", f"{row.share:.0%} {row.limit}",
            f"{row.error:.1e}", f"{row.ratio(ours_of(row, rows)):.2f}",
        )  # fmt: skip
        before = label
    if rows:
        console.print(table)
    for peer in missing:
        console.print(str(peer), soft_wrap=True, highlight=False, markup=False)


def line(row: PeerRow, rows: list[PeerRow]) -> dict[str, object]:
    from wavefold.bench.peers.contestants import ours_of

    names = {"peer": row.name, "kind": row.kind, "tokens": row.tokens}
    return names | row.figures() | {"error": row.error, "ratio": row.ratio(ours_of(row, rows))}
