"""How long a pool's models take to load beside a plain read of their files, and what memory comes back afterwards.

    python bench/pool_loads.py DIR --memory 5G [--rounds 2] [--out FILE]

Each model of DIR in turn, its files dropped from the page cache before: a plain read of them, 4 MiB at a time, and by a
server a load, and an answer to a prompt of 512 random tokens, which asks for most experts. Files are mapped or, where a
model is streamed, read past the page cache: a load alone touches few of them. Memory is the server's resident bytes a
second after an unloading, less those before the model came.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from pool import Place

from wavefold.bench.circumstances import append, circumstances
from wavefold.pool.folder import Entry, entries

PIECE = 4 << 20


def files_of(entry: Entry) -> list[Path]:
    return sorted(entry.path.glob("*.safetensors")) if entry.path.is_dir() else [entry.path]


def forget(files: list[Path]) -> None:
    """Drops files from the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_read(files: list[Path]) -> float:
    """Seconds of a read of all bytes."""
    piece, began = bytearray(PIECE), time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass
    return time.perf_counter() - began


def post(port: int, path: str, body: dict[str, Any]) -> float:
    """Seconds until a request is answered."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
                                     {"content-type": "application/json"})  # fmt: skip
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()
    return time.perf_counter() - began


def resident(process_id: int) -> int:
    """Resident bytes: all, those of mapped files too."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def measured(server: Place, name: str, entry: Entry, dice: random.Random) -> dict[str, Any]:
    files = files_of(entry)
    forget(files)
    read = plain_read(files)
    forget(files)
    before = resident(server.process.pid)
    load = post(server.port, "/v1/wavefold/models/load", {"model": name})
    prompt = dice.choices(range(100, 3000), k=512)
    answer = post(server.port, "/v1/completions", {"model": name, "prompt": prompt, "max_tokens": 1})
    most = resident(server.process.pid)
    post(server.port, "/v1/wavefold/models/unload", {"model": name})
    time.sleep(1)
    return {
        "model": name, "gib": round(entry.num_bytes / 2**30, 2), "read_s": round(read, 3), "load_s": round(load, 3),
        "answer_s": round(answer, 3), "load_and_answer_over_read": round((load + answer) / read, 2),
        "took_mib": round((most - before) / 2**20, 1),
        "kept_mib": round((resident(server.process.pid) - before) / 2**20, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory", default="5G")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a file to append JSON lines to")
    args = parser.parse_args()
    command = [sys.executable, "-m", "wavefold", "serve", "--models", str(args.folder), "--memory", args.memory,
               "--port", "0", "--cache-tokens", "4096", "--width", "8"]  # fmt: skip
    server, dice, lines = Place(command, r"http://127\.0\.0\.1:(\d+)"), random.Random(1), []
    try:
        for turn in range(args.rounds):
            for name, entry in entries(args.folder).items():
                if entry.base is None and not entry.fault:
                    lines.append({"round": turn} | measured(server, name, entry, dice))
                    print(lines[-1], flush=True)
    finally:
        server.close()
    if args.out:
        append(args.out, [circumstances(args.rounds) | {"bench": "pool loads"} | line for line in lines])


if __name__ == "__main__":
    main()
