"""This machine: bytes a second from memory and disk, and the same bytes of the file on both ways."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from wavefold.doctor.finding import Finding, failed, passed, skipped
from wavefold.doctor.patient import Patient
from wavefold.system import available_bytes, huge_memory

MEMORY_TENSOR = 256 << 20
LEAST_MEMORY, LEAST_DISK = 1.5e9, 50e6
"""Bytes a second below which something is wrong: swapping, a failing disk, a network in between."""
LEAST_READ = 32 << 20
"""Bytes for a rate: less is a matter of the disk's latency."""
BLOCK = 4 << 20
BLOCKS = 16


def memory(patient: Patient) -> Iterator[Finding]:
    if available_bytes() < 2 * MEMORY_TENSOR:
        yield failed("memory", f"{available_bytes() / 1e9:.1f} GB are available", "end other programs")
        return
    x = torch.ones(MEMORY_TENSOR // 4)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        x.sum()
        seconds.append(time.perf_counter() - began)
    rate = MEMORY_TENSOR / min(seconds)
    text = f"{rate / 1e9:.1f} GB/s read with {torch.get_num_threads()} threads"
    if rate < LEAST_MEMORY:
        yield failed("memory", text, "the machine swaps or is busy: end other programs, and run again")
    else:
        yield passed("memory", text)


def disk(patient: Patient) -> Iterator[Finding]:
    """Blocks of the file, past the page cache and through it: a rate, and whether they are the same."""
    assert patient.refs is not None
    path = max({ref.path for ref in patient.refs.values()}, key=lambda file: file.stat().st_size)
    if not hasattr(os, "O_DIRECT"):
        yield skipped("disk", "this system cannot read past its page cache")
        return
    try:
        num_bytes, seconds, differs = _read(path)
    except OSError as error:
        yield skipped("disk", f"{path.parent} cannot be read past the page cache ({error.strerror})")
        return
    if differs is not None:
        yield failed("disk", f"{path} at byte {differs:,}: the disk and the page cache have different bytes",
                     "drop the page cache or restart; test memory and disk")  # fmt: skip
        return
    yield passed("disk", f"{num_bytes:,} bytes are the same from disk and from the page cache")
    rate = num_bytes / max(seconds, 1e-9)
    if num_bytes < LEAST_READ:
        yield skipped("disk rate", f"{path.name} has {path.stat().st_size:,} bytes, too few for a rate (from "
                      f"{LEAST_READ:,} on)")  # fmt: skip
    elif rate < LEAST_DISK:
        yield failed("disk rate", f"{rate / 1e6:.0f} MB/s from {path.parent}", "move the file to a faster disk")
    else:
        yield passed("disk rate", f"{rate / 1e9:.2f} GB/s from {path.parent}, one block of 4 MiB at a time")


def _read(path: Path) -> tuple[int, float, int | None]:
    """Returns the bytes of blocks spread over a file, the seconds to read them, and where the page cache differs."""
    size = path.stat().st_size
    places = sorted({number * size // BLOCKS // 4096 * 4096 for number in range(BLOCKS)})
    buffer = memoryview(huge_memory(BLOCK))[:BLOCK]
    direct, cached = os.open(path, os.O_RDONLY | os.O_DIRECT), os.open(path, os.O_RDONLY)
    seconds, num_bytes = 0.0, 0
    try:
        for place in places:
            began = time.perf_counter()
            count = os.preadv(direct, [buffer], place)
            seconds += time.perf_counter() - began
            num_bytes += count
            if bytes(buffer[:count]) != os.pread(cached, count, place):
                return num_bytes, seconds, place
    finally:
        os.close(direct)
        os.close(cached)
    return num_bytes, seconds, None
