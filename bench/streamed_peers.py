"""flyweight beside ours on one GGUF file that does not fit: both in a control group of memory, in turns.

    python bench/streamed_peers.py FILE.gguf --limits 2.4G 3.6G [--tokens 32] [--turns 2]

It needs flyweight (`pip install --no-deps flyweight-llm==0.23.1`). Ours gets 97 % of a limit as its budget. The file's
pages are dropped from the cache before each. Prints tokens/s of a prompt of 16 random ids and of decoding after it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from wavefold.bench.memory_group import MemoryGroup
from wavefold.system.sizes import bytes_of

BUDGET = 0.97
PROMPT = 16
IDS = 16_000
"""Token ids are drawn below it; a file has as many tokens at least."""


def measured(limit: int, command: list[str]) -> str:
    """What a command prints, run in a group of its own with `limit` bytes."""
    group = MemoryGroup.new()
    if group is None:
        raise SystemExit("no control group of memory can be made here; run this as root")
    try:
        group.limit(limit)
        return subprocess.run(
            command, preexec_fn=lambda: group.enter(os.getpid()), stdout=subprocess.PIPE, text=True, check=True
        ).stdout  # fmt: skip
    finally:
        group.remove()


def drop(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def theirs(path: str, num_tokens: int) -> None:
    """In a process of its own: prints both rates as JSON."""
    from wavefold.bench.peers.flyweight import Model  # needs flyweight

    model = Model("", path, 4096, 0)
    random = Random(1)
    seconds = model.prefill([random.randrange(IDS) for _ in range(PROMPT)])
    decoding = model.decode([random.randrange(IDS) for _ in range(num_tokens)])
    print(json.dumps({"prompt": PROMPT / seconds, "decode": num_tokens / sum(decoding)}))


def ours(args: argparse.Namespace, limit: int, out: Path) -> dict[str, float]:
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "wavefold", "bench", "stream", str(args.model), "--prompt", str(PROMPT)]
    command += ["--memory", str(int(BUDGET * limit)), "--tokens", str(args.tokens), "--repeats", "1", "--out", str(out)]
    measured(limit, command)
    return {line["name"]: line["tokens"] / line["seconds"] for line in map(json.loads, out.read_text().splitlines())}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        theirs(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--limits", nargs="+", required=True, metavar="SIZE")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    table = Table("group", "prompt: ours, theirs", "decode: ours, theirs")
    worker = [sys.executable, str(Path(__file__).resolve()), "--worker", str(args.model), str(args.tokens)]
    with tempfile.TemporaryDirectory() as folder:
        for limit in args.limits * args.turns:
            drop(args.model)
            peer = json.loads(measured(bytes_of(limit), worker).splitlines()[-1])
            drop(args.model)
            mine = ours(args, bytes_of(limit), Path(folder) / "stream.jsonl")
            pairs = (f"{mine[name]:.2f}, {peer[name]:.2f} ({mine[name] / peer[name]:.1f}x)" for name in peer)
            table.add_row(limit, *pairs)
    Console().print(table)


if __name__ == "__main__":
    main()
