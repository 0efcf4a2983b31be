"""What it costs a prompt that it is kept: reading without a prefix cache, with one in memory, and with one on disk.

    python bench/prefix_writing.py [MODEL] [--tokens 4096] [--repeats 5] [--threads 2] [--folder DIR] [--out FILE]

The three take turns in one process, each on the same prompt of random ids, which nobody has read before: so all is
computed, and with the disk all is written. Prints the seconds until the first token (medians), how much longer the two
with a cache take in the same turn (median and range), and of the disk's turns: the time that the computing thread waits
in `Space.put` and `find`, and the processor's time of the thread that writes, over the time of reading.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wavefold import LLM, Sampling
from wavefold.bench.circumstances import append, circumstances
from wavefold.cache.disk import Space

WAYS = "off", "memory", "disk"
SPARE = 256


@contextlib.contextmanager
def waiting(spent: list[float]) -> Iterator[None]:
    """While the block runs, the seconds of each call of a space by the computing thread are added to `spent`."""
    rights = {name: getattr(Space, name) for name in ("put", "find", "touch")}

    def timed(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return rights[name](*arguments)
            finally:
                spent.append(time.perf_counter() - began)

        return call

    for name in rights:
        setattr(Space, name, timed(name))
    try:
        yield
    finally:
        for name, right in rights.items():
            setattr(Space, name, right)


def writer_cpu_s(llm: LLM) -> float:
    """Processor's seconds of the thread that writes so far."""
    thread = llm._disk.writer._thread if llm._disk is not None else None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) if thread is not None else 0.0


def turn(llm: LLM, ids: list[int]) -> dict[str, float]:
    spent: list[float] = []
    cpu_s, began = writer_cpu_s(llm), time.perf_counter()
    with waiting(spent):
        (answer,) = llm.generate([ids], Sampling(1, 0))
    read_s = time.perf_counter() - began
    assert answer.usage.computed_tokens == len(ids)
    if llm._disk is not None:
        llm._disk.flush()
    return {"read_s": read_s, "waited_s": sum(spent), "flushed_s": time.perf_counter() - began - read_s,
            "writer_cpu_s": writer_cpu_s(llm) - cpu_s}  # fmt: skip


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    settings: dict[str, dict[str, Any]] = {
        "off": {"prefix_cache": False}, "memory": {}, "disk": {"cache_dir": folder},
    }  # fmt: skip
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as stack:
        llms = {
            way: stack.enter_context(
                LLM(args.model, threads=args.threads, cache_tokens=args.tokens + SPARE,
                    snapshot_every=args.snapshot_every, **settings[way])
            )
            for way in WAYS
        }  # fmt: skip
        drawn, vocabulary = random.Random(0), llms["off"].model.config.vocab_size
        for number in range(args.repeats + 1):  # the first turn maps weights and makes pools
            ids = [drawn.randrange(10, vocabulary) for _ in range(args.tokens)]
            for way in (*WAYS[number % 3 :], *WAYS[: number % 3]):
                row = turn(llms[way], ids)
                if number:
                    rows[way].append(row)
        disk = llms["disk"]._disk
        assert disk is not None
        counts = disk.stats()
    figures: dict[str, object] = {f"{way}_s": statistics.median(row["read_s"] for row in rows[way]) for way in WAYS}
    for way in WAYS[1:]:
        ratios = sorted(ours["read_s"] / off["read_s"] for ours, off in zip(rows[way], rows["off"], strict=True))
        figures[f"{way}_over_off"] = statistics.median(ratios)
        figures[f"{way}_over_off_range"] = [round(ratios[0], 3), round(ratios[-1], 3)]
    read_s = sum(row["read_s"] for row in rows["disk"])
    for name in ("waited_s", "writer_cpu_s", "flushed_s"):
        figures[f"{name.removesuffix('_s')}_share"] = sum(row[name] for row in rows["disk"]) / read_s
    figures["written_bytes_over_payload"] = counts["written bytes"] / counts["written payload bytes"]
    return figures | {"written_bytes": counts["written bytes"], "dropped": counts.get("written dropped", 0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a checkpoint folder or GGUF file (default: the shipped model)")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--snapshot-every", type=int, default=2048)
    parser.add_argument("--folder", help="on the disk that keeps prompts (default: of temporary files)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out, args.out = args.out, None
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = measure(args, folder)
    print(json.dumps(figures, indent=1))
    if out:
        append(out, [circumstances(args.repeats) | {"bench": "prefix_writing", **vars(args)} | figures])


if __name__ == "__main__":
    main()
