"""What `wavefold plan` predicts of a model under budgets, beside what comes, on this disk and on slower ones.

    python bench/predictions.py MODEL --memory 2.2G 2.5G 3.5G [--disks 1.2G] [--prompt 256] [--tokens 32] [--threads 2]

Each budget has a turn of `wavefold plan MODEL --machine --remeasure --budget` and of `wavefold bench stream`, one after
the other. `--disks`: the same again with reads held to so many bytes a second by a control group of the kernel (version
1 of blkio, as root), of the whole disk that MODEL lies on. Prints a table; appends JSON lines to --out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wavefold.bench.circumstances import append, circumstances
from wavefold.system.sizes import bytes_of

GROUPS = Path("/sys/fs/cgroup/blkio")


@contextlib.contextmanager
def held_to(rate: int | None, model: Path) -> Iterator[Path | None]:
    """A group whose processes read `rate` bytes a second of the model's disk; None without a rate."""
    if rate is None:
        yield None
        return
    folder = GROUPS / f"wavefold-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        (folder / "blkio.throttle.read_bps_device").write_text(f"{disk_of(model)} {rate}")
        yield folder
    finally:
        folder.rmdir()


def disk_of(path: Path) -> str:
    """The whole disk, as major:minor, that a path lies on."""
    device = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if (entry / "partition").exists():
        entry = entry.parent
    return (entry / "dev").read_text().strip()


def answer(group: Path | None, cache: Path, *arguments: str) -> str:
    """What a command of wavefold prints, run in the group."""

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "wavefold", *arguments]
    return subprocess.run(
        command, env=environment, preexec_fn=enter, stdout=subprocess.PIPE, text=True, check=True
    ).stdout  # fmt: skip


def turn(args: argparse.Namespace, memory: str, group: Path | None, folder: Path) -> dict[str, Any]:
    """Predicted and measured rates under one budget."""
    threads = ["--threads", str(args.threads)] if args.threads else []
    plan = ["plan", str(args.model), "--machine", "--remeasure", "--context", str(args.prompt), "--budget", memory]
    machine = json.loads(answer(group, folder, *plan, "--json"))["machine"]
    out = folder / "stream.jsonl"
    out.unlink(missing_ok=True)
    stream = ["bench", "stream", str(args.model), "--memory", memory, "--prompt", str(args.prompt)]
    answer(group, folder, *stream, "--tokens", str(args.tokens), "--repeats", "1", "--out", str(out), *threads)
    rows = {line["name"]: line for line in map(json.loads, out.read_text().splitlines())}
    return {
        "memory": memory, "disk_planned": machine["disk_read"], "disk_measured": rows["decode"]["disk"],
        "decode_expected": machine["decode"]["expected_per_s"], "decode_best": machine["decode"]["tokens_per_s"],
        "decode": rows["decode"]["tokens"] / rows["decode"]["seconds"],
        "prompt_expected": machine["prefill"]["expected_per_s"], "prompt_best": machine["prefill"]["tokens_per_s"],
        "prompt": rows["prompt"]["tokens"] / rows["prompt"]["seconds"],
    }  # fmt: skip


def beside(expected: float, came: float) -> str:
    return f"{expected:.2f}, {came:.2f} ({came / expected - 1:+.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--memory", nargs="+", required=True, metavar="SIZE")
    parser.add_argument("--disks", nargs="*", default=[], metavar="SIZE", help="bytes a second")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    columns = (
        "disk held to",
        "memory",
        "disk, GB/s: planned, came",
        "decode: expected, came",
        "prompt: expected, came",
    )
    table = Table(*columns, title="tokens/s")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for disk in (None, *args.disks):
            with held_to(disk and bytes_of(disk), args.model) as group:
                for memory in args.memory:
                    row = turn(args, memory, group, Path(folder))
                    lines.append(circumstances(1) | {"bench": "predictions", "disk_held_to": disk} | row)
                    shown = (beside(row[f"{name}_expected"], row[name]) for name in ("decode", "prompt"))
                    rates = f"{row['disk_planned'] / 1e9:.2f}, {row['disk_measured'] / 1e9:.2f}"
                    table.add_row(disk or "", memory, rates, *shown)
    Console(width=120).print(table)
    if args.out:
        append(args.out, lines)


if __name__ == "__main__":
    main()
