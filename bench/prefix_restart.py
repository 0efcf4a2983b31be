"""A prompt after a restart: read again, restored from disk, and found in memory; beside llama.cpp's slots.

    python bench/prefix_restart.py MODEL [--tokens 4096] [--threads 2] [--llama-server PROGRAM --gguf FILE] [--out FILE]

Random ids; each figure is the time until the first new token. A first process reads the prompt and keeps it; a second
one opens the folder (written past the page cache, and read so) and asks twice. llama.cpp's server reads the same
prompt, saves its slot, is started again, restores the slot and is asked: its own path for prompts that outlive it.
Prints seconds, bytes on disk, and tokens that were computed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wavefold import LLM, Sampling
from wavefold.bench.circumstances import append, circumstances
from wavefold.bench.llama_server import LlamaServer

SPARE = 128


def ids_of(num_tokens: int, vocabulary: int) -> list[int]:
    drawn = random.Random(num_tokens)
    return [drawn.randrange(10, vocabulary) for _ in range(num_tokens)]


def worker(model: str, folder: str, num_tokens: int, threads: int, times: int) -> None:
    """In a process of its own: asks `times` times, and prints seconds and usage of each as JSON."""
    with LLM(model, threads=threads, cache_dir=folder, cache_tokens=num_tokens + SPARE) as llm:
        ids = ids_of(num_tokens, llm.model.config.vocab_size)
        for _ in range(times):
            began = time.perf_counter()
            (answer,) = llm.generate([ids], Sampling(max_tokens=1, temperature=0))
            usage = answer.usage
            print(json.dumps({"seconds": time.perf_counter() - began, "computed": usage.computed_tokens,
                              "on_disk": usage.disk_tokens}), flush=True)  # fmt: skip


def ours(args: argparse.Namespace) -> Iterator[tuple[str, float, int, int]]:
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = []
        for times in (1, 2):
            command = [sys.executable, __file__, "--worker", str(args.model), folder, str(args.tokens),
                       str(args.threads), str(times)]  # fmt: skip
            found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=args.limit)
            lines = found.stdout.splitlines()
            rows += [json.loads(line) for line in lines if line.startswith("{")]
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        for name, row in zip(("read", "restored from disk", "in memory"), rows, strict=True):
            yield f"wavefold: {name}", row["seconds"], row["computed"], size


def theirs(args: argparse.Namespace, vocabulary: int) -> Iterator[tuple[str, float, int, int]]:
    ids = ids_of(args.tokens, vocabulary)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:

        def server() -> LlamaServer:
            return LlamaServer(
                args.llama_server, args.gguf, 1, args.tokens + SPARE, args.threads, ("--slot-save-path", folder),
                args.limit,
            )  # fmt: skip

        with server() as first:
            read = first.complete(ids, 1)
            saving = first.save_slot("slot")
        path = Path(folder) / "slot"
        size = path.stat().st_size
        yield f"{first.name}: read", read.seconds, read.computed, size
        yield f"{first.name}: slot saved", saving, 0, size
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with server() as second:
            restoring = second.restore_slot(path.name)
            asked = second.complete(ids, 1)
        yield f"{second.name}: slot restored, then asked", restoring + asked.seconds, asked.computed, size


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        model, folder, *numbers = sys.argv[2:]
        return worker(model, folder, *map(int, numbers))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-server")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds that an answer may take (default 3600)")
    parser.add_argument("--folder", help="on the disk that is to be measured (default: of temporary files)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table = Table(
        "", "seconds to the first token", "computed", "MB on disk", title=f"a prompt of {args.tokens:,} tokens"
    )
    rows = list(ours(args))
    if args.llama_server:
        from wavefold import ModelConfig

        rows += theirs(args, ModelConfig.from_file(args.model).vocab_size)
    for name, seconds, computed, size in rows:
        table.add_row(name, f"{seconds:.3f}", f"{computed:,}", f"{size / 1e6:.1f}")
    Console().print(table)
    if args.out:
        keys = ("name", "seconds", "computed", "bytes")
        append(
            args.out,
            [circumstances(1) | {"bench": "prefix_restart"} | dict(zip(keys, row, strict=True)) for row in rows],
        )


if __name__ == "__main__":
    main()
