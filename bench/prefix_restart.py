"""A prompt after a restart: read again, restored from disk, and found in memory; beside llama.cpp's slots.

    python bench/prefix_restart.py MODEL [--tokens 4096] [--threads 2] [--hits 5] [--folder DIR] [--out FILE]
                                   [--llama-server PROGRAM --gguf FILE] [--peer-tokens N]

A prompt of --tokens random ids, then 16 more. A first process reads it and keeps it. The cache's files leave the page
cache. A second process opens the folder and asks: all blocks and the last state come from the disk, and 16 tokens are
computed. It asks --hits times more, which are hits in memory. Prints

    seconds             until the first new token
    restored in         of it, the time to find and read the prefix (`Prefixes.open`)
    to the pass         from the request to the start of its first pass

and of the restored bytes their rate, over that of a file of the same size on the same disk, past the page cache, read
just before and just after in the same process; the time of reading the prompt over that of restoring it, and over that
of all until the first token; and the bytes that were written over those of blocks and states.

llama.cpp's server reads a prompt of --peer-tokens (default: as many as ours), saves its slot, is started again,
restores the slot, whose file has left the page cache, and is asked: its own path for prompts that outlive it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wavefold import LLM, Sampling
from wavefold.bench.circumstances import append, circumstances
from wavefold.bench.llama_server import LlamaServer
from wavefold.cache import BLOCK_TOKENS
from wavefold.cache.disk_read import THREADS
from wavefold.engine.prefixes import Prefixes
from wavefold.model import Transformer
from wavefold.system import huge_memory
from wavefold.system.reading import PIECE, DirectFile, ReadThreads

REST = 16
"""Tokens behind the prefix."""
SPARE = 256
Row = dict[str, Any]


def ids_of(num_tokens: int, vocabulary: int) -> list[int]:
    drawn = random.Random(num_tokens)
    return [drawn.randrange(10, vocabulary) for _ in range(num_tokens + REST)]


def leave_page_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fdatasync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


# -- in a process of its own -------------------------------------------------------------------------------------------


def note(kind: type, name: str, ended: Callable[[float, float], None]) -> None:
    """From now on `ended` is called with the times at which a method began and ended."""
    right = getattr(kind, name)

    @functools.wraps(right)
    def noted(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return right(*arguments, **named)
        finally:
            ended(began, time.perf_counter())

    setattr(kind, name, noted)


def disk_rate(folder: Path, num_bytes: int) -> tuple[float, bool]:
    """Bytes per second of a new file of `num_bytes`, and True if its reads passed the page cache by."""
    path = folder / "rate"
    size = -(-num_bytes // PIECE) * PIECE
    with path.open("wb") as written:
        for _ in range(size // PIECE):
            written.write(os.urandom(PIECE))
        written.flush()
        os.fsync(written.fileno())
        os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    memory, file, threads = memoryview(huge_memory(size)), DirectFile(path), ReadThreads("rate", "the bench", THREADS)
    for at in range(0, size, 4096):  # a virtual machine gets its memory with the first use
        memory[at] = 0
    try:
        began = time.perf_counter()
        reads = [functools.partial(file.read, [memory[at : at + PIECE]], at, PIECE) for at in range(0, size, PIECE)]
        threads.submit(reads).result()
        return size / (time.perf_counter() - began), file.direct
    finally:
        threads.close()
        file.close()
        path.unlink()


def worker(args: argparse.Namespace) -> None:
    """Asks `args.times` times, and prints a line of JSON for each; with `args.rate` bytes, of the disk's rate too."""
    opened: list[float] = []
    passes: list[float] = []
    note(Prefixes, "open", lambda began, ended: opened.append(ended - began))
    note(Transformer, "forward_step", lambda began, ended: passes.append(began))
    folder = Path(args.folder) / "cache"
    with LLM(args.model, threads=args.threads, cache_dir=folder, cache_tokens=args.tokens + SPARE) as llm:
        ids = ids_of(args.tokens, llm.model.config.vocab_size)
        rates = [disk_rate(Path(args.folder), args.rate)] if args.rate else []
        for number in range(args.times):
            opened.clear()
            passes.clear()
            began = time.perf_counter()
            (answer,) = llm.generate([ids], Sampling(max_tokens=1, temperature=0))
            seconds, usage = time.perf_counter() - began, answer.usage
            row = {"seconds": seconds, "restore_s": opened[0], "to_pass_s": passes[0] - began,
                   "passes": len(passes), "computed": usage.computed_tokens, "on_disk": usage.disk_tokens}  # fmt: skip
            if number == 0 and args.rate:
                rates.append(disk_rate(Path(args.folder), args.rate))
                row |= {"disk_rates": [rate for rate, _ in rates], "direct": all(direct for _, direct in rates)}
            disk, pool = llm._disk, llm.runner._pool
            assert disk is not None and pool is not None
            disk.flush()
            counts, layout = disk.stats(), pool.layout
            blocks = usage.disk_tokens // BLOCK_TOKENS
            row |= {"written": counts.get("written bytes", 0), "payload": counts.get("written payload bytes", 0),
                    "restored_bytes": blocks * layout.block_bytes + (layout.state_bytes if blocks else 0),
                    "prefix_bytes": args.tokens // BLOCK_TOKENS * layout.block_bytes + layout.state_bytes}  # fmt: skip
            print(json.dumps(row), flush=True)


def ask(args: argparse.Namespace, folder: Path, times: int, rate: int = 0) -> list[Row]:
    command = [
        sys.executable, __file__, str(args.model), "--tokens", str(args.tokens), "--threads", str(args.threads),
        "--folder", str(folder), "--times", str(times), "--rate", str(rate),
    ]  # fmt: skip
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=args.limit)
    return [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]


# -- all of it ---------------------------------------------------------------------------------------------------------


def ours(args: argparse.Namespace) -> tuple[list[Row], Row]:
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (read,) = ask(args, folder, 1)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        leave_page_cache(folder)
        restored, *hits = ask(args, folder, 1 + args.hits, read["prefix_bytes"])
    rest = REST + args.tokens % BLOCK_TOKENS
    assert restored["computed"] == rest and restored["on_disk"], "the prefix did not come from the disk"
    assert all(hit["on_disk"] == 0 and hit["computed"] <= rest for hit in hits), "a hit was not found in memory"
    names = ("read", "restored from disk", *(["in memory"] * len(hits)))
    rows = [{"name": f"wavefold: {name}", "tokens": args.tokens, "bytes": size} | row
            for name, row in zip(names, (read, restored, *hits), strict=True)]  # fmt: skip
    rate = restored["restored_bytes"] / restored["restore_s"]
    figures = {
        "restore_s": restored["restore_s"], "restored_bytes": restored["restored_bytes"], "restore_rate": rate,
        "disk_rates": restored["disk_rates"], "direct": restored["direct"],
        "share_of_disk": rate / statistics.mean(restored["disk_rates"]),
        "read_over_restore": read["seconds"] / restored["restore_s"],
        "read_over_first_token": read["seconds"] / restored["seconds"],
        "hit_to_pass_s": [hit["to_pass_s"] for hit in hits],
        "written_over_payload": read["written"] / read["payload"],
        "written_over_prefix": read["written"] / read["prefix_bytes"],
    }  # fmt: skip
    return rows, figures


def theirs(args: argparse.Namespace, vocabulary: int) -> list[Row]:
    num_tokens = args.peer_tokens or args.tokens
    ids = ids_of(num_tokens, vocabulary)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:

        def server() -> LlamaServer:
            return LlamaServer(
                args.llama_server, args.gguf, 1, num_tokens + SPARE, args.threads, ("--slot-save-path", folder),
                args.limit,
            )  # fmt: skip

        with server() as first:
            read = first.complete(ids, 1)
            saving = first.save_slot("slot")
        path = Path(folder) / "slot"
        size = path.stat().st_size
        leave_page_cache(Path(folder))
        with server() as second:
            restoring = second.restore_slot(path.name)
            asked = second.complete(ids, 1)
    rows = [("read", read.seconds, read.computed), ("slot saved", saving, 0), ("slot restored", restoring, 0),
            ("slot restored, then asked", restoring + asked.seconds, asked.computed)]  # fmt: skip
    return [
        {"name": f"llama.cpp: {name}", "tokens": num_tokens, "seconds": seconds, "computed": computed, "bytes": size}
        for name, seconds, computed in rows
    ]


def show(rows: list[Row], figures: Row) -> None:
    table = Table("", "prompt", "seconds to the first token", "restored in, ms", "to the pass, ms", "computed",
                  "MB on disk")  # fmt: skip
    for row in rows:
        inside = [f"{1e3 * row[name]:.2f}" if name in row else "" for name in ("restore_s", "to_pass_s")]
        table.add_row(row["name"], f"{row['tokens']:,}", f"{row['seconds']:.3f}", *inside, f"{row['computed']:,}",
                      f"{row['bytes'] / 1e6:.1f}")  # fmt: skip
    console = Console()
    console.print(table)
    disk = " and ".join(f"{rate / 1e9:.2f}" for rate in figures["disk_rates"])
    cold = "past the page cache" if figures["direct"] else "THROUGH THE PAGE CACHE (no O_DIRECT here)"
    hits = sorted(1e3 * seconds for seconds in figures["hit_to_pass_s"])
    lines = [
        f"restored {figures['restored_bytes'] / 1e6:.1f} MB in {figures['restore_s']:.4f} s, "
        f"{figures['restore_rate'] / 1e9:.2f} GB/s: {figures['share_of_disk']:.0%} of the disk's {disk} GB/s, {cold}",
        f"reading the prompt takes {figures['read_over_restore']:,.0f} times as long as restoring it, "
        f"{figures['read_over_first_token']:,.1f} times as long as all to the first token after a restart",
        f"a hit in memory: {statistics.median(hits):.2f} ms to the pass (median of {len(hits)}, {hits[0]:.2f} to "
        f"{hits[-1]:.2f})",
        f"bytes written: {figures['written_over_payload']:.4f} of the blocks and states that were written, "
        f"{figures['written_over_prefix']:.3f} of the prefix's blocks and one state",
    ]
    for line in lines:
        console.print(line, highlight=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=4096, help="of the prefix (default 4096)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hits", type=int, default=5, help="questions that are found in memory (default 5)")
    parser.add_argument("--llama-server")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--peer-tokens", type=int, help="of llama.cpp's prompt (default: --tokens)")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds that a process may take (default 3600)")
    parser.add_argument("--folder", help="on the disk that is to be measured (default: of temporary files)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--times", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tokens < 256 or args.hits < 1:
        parser.error(f"--tokens {args.tokens} --hits {args.hits}: not allowed; expected 256 and 1 at least")
    if bool(args.llama_server) != bool(args.gguf):
        parser.error("--llama-server and --gguf belong together; give both or neither")
    return args


def main() -> None:
    args = arguments()
    if args.times:
        return worker(args)
    rows, figures = ours(args)
    if args.llama_server:
        from wavefold import ModelConfig

        rows += theirs(args, ModelConfig.from_file(args.model).vocab_size)
    show(rows, figures)
    if args.out:
        about = circumstances(1) | {"bench": "prefix_restart"}
        append(args.out, [about | figures, *(about | row for row in rows)])


if __name__ == "__main__":
    main()
