"""A batch that is killed again and again: the same command goes on to the same lines, none twice, none lost.

    python bench/kills_batch.py [--lines 1000] [--kills 50] [--seed 0] [--memory SIZE] [--shard I/N]

A small random model answers --lines prompts with `wavefold batch --batch-invariant`, once undisturbed and once with
--kills SIGKILLs, after each of which the same command is given again. Half of the kills come at a random moment of the
start, or with its first lines; half when its results have reached a random size. Prints counts; exits with 1 if a line
is missing, is there twice or has another answer, or if the batch was through before all kills.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LATE = 3
"""Times that the command may be through before its kill."""


def write_lines(path: Path, count: int, seed: int) -> None:
    draws = random.Random(seed)
    lines = (
        {"id": f"line {n}", "prompt": draws.choices(range(300), k=1 + n % 60), "max_tokens": 1 + n % 40, "seed": n}
        for n in range(count)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def kill_once(command: list[str], out: Path, wait_s: float, size: int) -> bool:
    """True if the kill met the command: `wait_s` after its start, or when its results have `size` bytes."""
    process, ends = subprocess.Popen(command, stderr=subprocess.DEVNULL), time.monotonic() + wait_s
    while process.poll() is None and time.monotonic() < ends and size_of(out) < size:
        time.sleep(0.0005)
    process.kill()
    return process.wait() < 0


def count_kills(command: list[str], out: Path, args: argparse.Namespace, start_s: float, size: int) -> Counter[str]:
    """`size` is that of all results: kills are spread over it, whatever the speed."""
    draws, counts = random.Random(args.seed), Counter[str]()
    while (left := args.kills - counts["met"]) and counts["too late"] < MOST_LATE:
        before, at_work = size_of(out), counts["met"] % 2 == 1
        target = int(before + 1 + draws.random() * 2 * (size - before) / (left + 1))
        if not kill_once(command, out, math.inf if at_work else draws.uniform(0, 1.1 * start_s), target):
            counts["too late"] += 1
            continue
        counts["met"] += 1
        counts["after lines were written"] += size_of(out) > before
        counts["in the middle of a line"] += size_of(out) > 0 and not out.read_bytes().endswith(b"\n")
    return counts


def undisturbed(command: list[str], out: Path) -> float:
    """Returns the seconds until the first line is written."""
    process, began = subprocess.Popen(command, stderr=subprocess.PIPE, text=True), time.monotonic()
    while process.poll() is None and not size_of(out):
        time.sleep(0.005)
    start_s = time.monotonic() - began
    _, said = process.communicate()
    if process.returncode:
        sys.exit(said)
    return start_s


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from tests.small import SMALL_WITH_TEXT, small_model

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", help="a budget, under which routed experts are streamed")
    parser.add_argument("--shard", help="of the lines")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_model(folder / "model", SMALL_WITH_TEXT.replace(o_lora_rank=128), 1)  # as the kernels take it
        write_lines(folder / "in", args.lines, args.seed)
        whole, out = folder / "whole", folder / "out"

        def command(path: Path) -> list[str]:
            flags = [
                word for key in ("memory", "shard") if (value := getattr(args, key)) for word in (f"--{key}", value)
            ]
            return [sys.executable, "-m", "wavefold", "batch", str(folder / "in"), str(path), "--model",
                    str(folder / "model"), "--width", "8", "--threads", "1", "--batch-invariant", *flags]  # fmt: skip

        start_s = undisturbed(command(whole), whole)
        counts = count_kills(command(out), out, args, start_s, size_of(whole))
        undisturbed(command(out), out)
        expected, lines = whole.read_text().splitlines(), out.read_text().splitlines()
    keys = Counter(json.loads(line)["id"] for line in lines)
    twice = sum(number - 1 for number in keys.values())
    lost = len({json.loads(line)["id"] for line in expected} - keys.keys())
    other = len(set(lines) ^ set(expected))
    print(f"{len(expected):,} lines, {counts['met']} kills, {counts['too late']} too late")
    for name in ("after lines were written", "in the middle of a line"):
        print(f"kills {name}: {counts[name]}")
    print(f"lines lost: {lost}, twice: {twice}, other than undisturbed: {other}")
    return int(bool(lost or twice or other or counts["met"] < args.kills))


if __name__ == "__main__":
    sys.exit(main())
