"""Rates of the prefix cache on disk beside those of the disk itself, at the record sizes of a preset.

    python bench/prefix_disk.py [--preset flash] [--tokens 32768] [--chains 6] [--repeats 5] [--folder DIR] [--plain]
    python bench/prefix_disk.py --model FOLDER ...        the shapes of a checkpoint, of which config.json is read alone

Writes --chains prompts of --tokens tokens (a state at each end), opens the folder anew, and restores each prompt into
memory that nothing has touched: as the pool's, at pages or not, in pages of 2 MiB or of 4 KiB. Before and after each
restore the same records are read without the cache: the same requests, in the same number at a time, into memory of
2 MiB pages. Both pass the page cache by; what is in it of the files is dropped first. Prints medians, and the ratio of
each restore to the mean of the two reads around it. "opened" is all that a request waits for: `PrefixCache.open` of a
new pool, which finds the prefix, reads it, and copies its state for the sequence.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from wavefold.cache import BLOCK_TOKENS, CacheLayout, Chain, Pool, PrefixCache, packed_records, plain_records
from wavefold.cache.disk import DiskCache, Space
from wavefold.cache.disk_index import Place
from wavefold.cache.disk_read import THREADS, Wanted, runs_of
from wavefold.cache.segment import BLOCK, STATE
from wavefold.cache.state import SequenceState
from wavefold.config import ModelConfig
from wavefold.system import cpu_name, huge_memory
from wavefold.system.reading import PIECE, DirectFile, ReadThreads

DIGEST = hashlib.sha256(b"bench").digest()


def chain_of(number: int, count: int) -> Chain:
    """A text of `count` blocks and one token more, which is to be computed."""
    tokens = np.random.default_rng(number).integers(0, 1000, count * BLOCK_TOKENS + 1)
    return Chain(DIGEST, tokens.tolist())


def write(cache: DiskCache, space: Space, chains: Sequence[list[bytes]], layout: CacheLayout) -> dict[str, float]:
    """Rates of `put`, which copies, and of all until it is on the disk."""
    source = np.random.default_rng(0).integers(0, 256, layout.state_bytes + layout.block_bytes, dtype=np.uint8)
    put_s, began = 0.0, time.perf_counter()
    for keys in chains:
        parent = DIGEST
        for key in keys:
            source[:32] = np.frombuffer(key, np.uint8)
            state = memoryview(source[: layout.state_bytes]) if key is keys[-1] else None
            start = time.perf_counter()
            space.put(key, parent, memoryview(source[: layout.block_bytes]), state)
            put_s += time.perf_counter() - start
            parent = key
        cache.flush()
    cache.flush()
    total_s, counts = time.perf_counter() - began, cache.stats()
    return {"put_gb_per_s": counts["written payload bytes"] / put_s / 1e9,
            "written_gb_per_s": counts["written bytes"] / total_s / 1e9,
            "bytes_over_payload": counts["written bytes"] / counts["written payload bytes"]}  # fmt: skip


def memory_of(kind: str, layout: CacheLayout, count: int) -> tuple[list[memoryview], memoryview]:
    """Fresh memory for blocks and a state, as a pool would have it."""
    stride = layout.block_bytes // 64 * 64 + 64 if kind == "anywhere" else -(-layout.block_bytes // 4096) * 4096
    num_bytes = stride * count + layout.state_bytes
    if kind == "pool":
        memory = memoryview(huge_memory(num_bytes))
    elif kind == "pages":
        memory = memoryview(mmap.mmap(-1, num_bytes))
    else:
        memory = memoryview(torch.empty(num_bytes, dtype=torch.uint8).numpy())
    room = layout.block_stride if kind == "pool" else layout.block_bytes
    blocks = [memory[at * stride : at * stride + room] for at in range(count)]
    if kind == "pool":
        return blocks, memoryview(SequenceState(layout, torch.device("cpu")).buffer.numpy())
    return blocks, memory[stride * count :]


def drop(folder: Path) -> None:
    """What is in the page cache of the folder's files goes."""
    for path in folder.iterdir():
        file = os.open(path, os.O_RDONLY)
        os.fdatasync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def read_alone(space: Space, keys: list[bytes], threads: ReadThreads) -> float:
    """Bytes per second of the same requests without the cache: runs of slots, and pieces of larger ones."""
    wanted = [Wanted(STATE, keys[-1], memoryview(b""), space.index.place(STATE, keys[-1]))]
    wanted += [Wanted(BLOCK, key, memoryview(b""), space.index.place(BLOCK, key)) for key in keys]
    requests: list[tuple[Place, int, int]] = []
    for run in runs_of(wanted):
        header = run[0].place.segment.header
        size = len(run) * header.slot_bytes
        begin = header.offset(run[0].place.number)
        requests += [(run[0].place, begin + at, min(PIECE, size - at)) for at in range(0, size, PIECE)]
    memory = memoryview(huge_memory(sum(size for _, _, size in requests)))
    files: dict[Path, DirectFile] = {}
    reads, at, began = [], 0, time.perf_counter()
    for place, offset, size in requests:
        if (path := place.segment.path) not in files:
            files[path] = DirectFile(path)
        reads.append(functools.partial(files[path].read, [memory[at : at + size]], offset, size))
        at += size
    threads.submit(reads).result()
    rate = at / (time.perf_counter() - began)
    for file in files.values():
        file.close()
    return rate


def restore(space: Space, keys: list[bytes], kind: str, layout: CacheLayout) -> tuple[float, float]:
    """(payload bytes per second, seconds)."""
    blocks, state = memory_of(kind, layout, len(keys))
    began = time.perf_counter()
    count = space.read(keys, blocks, keys[-1], state)
    seconds = time.perf_counter() - began
    assert count == len(keys), f"{count} of {len(keys)} blocks came back"
    return (len(keys) * layout.block_bytes + layout.state_bytes) / seconds, seconds


def restore_opened(space: Space, chain: Chain, layout: CacheLayout) -> tuple[float, float]:
    """`restore` into a new pool, with all that `PrefixCache.open` does beside."""
    count = len(chain.keys)
    cache = PrefixCache(Pool(layout.config, (count + 1) * BLOCK_TOKENS, layout.records), 1, DIGEST, space)
    began = time.perf_counter()
    opened = cache.open(chain, len(chain) - 1)
    seconds = time.perf_counter() - began
    assert opened.on_disk == count * BLOCK_TOKENS, f"{opened.on_disk} tokens came back"
    return (count * layout.block_bytes + layout.state_bytes) / seconds, seconds


def measure(folder: Path, layout: CacheLayout, args: argparse.Namespace) -> dict[str, object]:
    count = args.tokens // BLOCK_TOKENS
    texts = [chain_of(number, count) for number in range(args.chains)]
    chains = [text.keys for text in texts]
    cap = 2 * args.chains * layout.bytes_for(args.tokens) + (1 << 30)
    figures: dict[str, object] = {}
    with DiskCache(folder, cap) as cache:
        figures |= write(cache, cache.space(DIGEST, layout.block_bytes, layout.state_bytes, "bench"), chains, layout)
    drop(folder)
    threads = ReadThreads("alone", "the bench", THREADS)
    with DiskCache(folder, cap) as cache:
        began = time.perf_counter()
        space = cache.space(DIGEST, layout.block_bytes, layout.state_bytes, "bench")
        figures["index_s"], figures["records"] = time.perf_counter() - began, sum(space.index.num_records())
        began = time.perf_counter()
        space.find(chains[0])
        figures["find_us_per_key"] = 1e6 * (time.perf_counter() - began) / count
        read_alone(space, chains[0], threads)  # a virtual machine gets its memory with the first use
        restore(space, chains[0], "pool", layout)
        for kind in ("opened", "pool", "pages", "anywhere"):
            alone, rates, seconds, ratios = [], [], [], []
            for number in range(args.repeats):
                keys = chains[number % len(chains)]
                drop(folder)
                before = read_alone(space, keys, threads)
                if kind == "opened":
                    rate, took = restore_opened(space, texts[number % len(texts)], layout)
                else:
                    rate, took = restore(space, keys, kind, layout)
                after = read_alone(space, keys, threads)
                alone += [before, after]
                rates.append(rate)
                seconds.append(took)
                ratios.append(2 * rate / (before + after))
            figures[kind] = {
                "disk_gb_per_s": statistics.median(alone) / 1e9, "restore_gb_per_s": statistics.median(rates) / 1e9,
                "restore_s": statistics.median(seconds), "ratio": statistics.median(ratios),
                "ratios": [round(ratio, 2) for ratio in sorted(ratios)],
            }  # fmt: skip
    threads.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="flash")
    parser.add_argument("--model", type=Path, help="a checkpoint's folder, in place of a preset")
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--chains", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--plain", action="store_true", help="bfloat16 records, as exact arithmetic keeps them")
    args = parser.parse_args()
    config = ModelConfig.preset(args.preset) if args.model is None else ModelConfig.from_file(args.model)
    layout = CacheLayout(config, plain_records(config, torch.bfloat16) if args.plain else packed_records(config))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        figures = measure(Path(name), layout, args)
    name = args.model.name if args.model else args.preset
    circumstances = {"cpu": cpu_name(), "preset": name, "tokens": args.tokens, "repeats": args.repeats,
                     "block_bytes": layout.block_bytes, "state_bytes": layout.state_bytes}  # fmt: skip
    print(json.dumps(circumstances | figures, indent=1))


if __name__ == "__main__":
    main()
