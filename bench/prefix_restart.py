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
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wavefold import LLM, Sampling
from wavefold.bench.circumstances import append, circumstances

SPARE = 128
LIMIT_S = 3600


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
            lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
            rows += [json.loads(line) for line in lines if line.startswith("{")]
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        for name, row in zip(("read", "restored from disk", "in memory"), rows, strict=True):
            yield f"wavefold: {name}", row["seconds"], row["computed"], size


@contextmanager
def server(args: argparse.Namespace, folder: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(args.threads)
    process = subprocess.Popen(
        [args.llama_server, "-m", str(args.gguf), "-t", threads, "-tb", threads, "-np", "1", "-c",
         str(args.tokens + SPARE), "--port", str(port), "--slot-save-path", folder, "--no-ui"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        place = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"{place}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield place
    finally:
        process.kill()
        process.wait()


def post(place: str, fields: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Returns the seconds until the answer, and it."""
    request = urllib.request.Request(place, json.dumps(fields).encode(), {"Content-Type": "application/json"})
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        return time.perf_counter() - began, json.load(answer)


def theirs(args: argparse.Namespace, vocabulary: int) -> Iterator[tuple[str, float, int, int]]:
    asked = {"prompt": ids_of(args.tokens, vocabulary), "n_predict": 1, "cache_prompt": True, "temperature": 0.0}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        with server(args, folder) as place:
            seconds, answer = post(f"{place}/completion", asked)
            saving, _ = post(f"{place}/slots/0?action=save", {"filename": "slot"})
        size = (Path(folder) / "slot").stat().st_size
        yield "llama.cpp: read", seconds, answer["timings"]["prompt_n"], size
        yield "llama.cpp: slot saved", saving, 0, size
        with (Path(folder) / "slot").open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with server(args, folder) as place:
            restoring, _ = post(f"{place}/slots/0?action=restore", {"filename": "slot"})
            seconds, answer = post(f"{place}/completion", asked)
        yield "llama.cpp: slot restored, then asked", restoring + seconds, answer["timings"]["prompt_n"], size


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
