"""Processes that write a prefix cache are killed at random moments, while another one watches the cap at 100 Hz.

    python -m tests.cache.disk_kills [--count 1000] [--processes 4] [--seed 0] [--folder DIR]

After each kill the cache opens, and all that is found is read and compared with what its key says. With --folder on a
file system of its own (tmpfs), the watcher also counts the blocks in use there, of files without a name too. Prints
counts; exits with 1 for a wrong payload, a start that failed, or a byte over the cap.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cache.disk_chains import chain, num_found, put, read, space_of
from wavefold.cache.disk import DiskCache
from wavefold.system import Notice

CAP = 3_000_000
LONGEST_S = 0.12
NUM_CHAINS, LENGTH = 24, 20


def keys_of(number: int) -> list[bytes]:
    """Three of four chains are forks of the fourth before them."""
    trunk = chain(f"trunk {number // 4}", LENGTH)
    if number % 4 == 0:
        return trunk
    at = 5 * (number % 4)
    return trunk[:at] + chain(f"fork {number}", LENGTH - at, trunk[at - 1])


def no_damage() -> None:
    """From now on a Notice of damage is an error: a kill, or a segment that another process removes, is none."""
    warnings.filterwarnings("error", ".*damaged", Notice)


def write_for_ever(folder: Path, cap: int, seed: int) -> None:
    """Puts, reads and uses chains, in random order, with starts in between."""
    no_damage()
    draws = random.Random(seed)
    while True:
        with DiskCache(folder, cap) as cache:
            space = space_of(cache)
            for _ in range(draws.randrange(1, 30)):
                keys = keys_of(draws.randrange(NUM_CHAINS))
                put(space, keys[: draws.randrange(1, LENGTH + 1)], states=draws.sample(range(LENGTH), 2))
                space.touch(keys)
                if draws.random() < 0.3:
                    read(space, keys[: num_found(space, keys)])
                if draws.random() < 0.3:
                    cache.flush()


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process, whose number is returned. One that fails ends with 99."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(99)
    return child


class Watcher:
    """A process that looks at a folder 100 times a second. `largest`: the most bytes it saw; `looks`: how often."""

    def __init__(self, folder: Path):
        self._folder, self._shared = folder, mmap.mmap(-1, 24)
        self._own = os.stat(folder).st_dev != os.stat(folder.parent).st_dev
        self._empty = self._blocks()
        self._child = in_child(self._watch)

    def stop(self) -> tuple[int, int]:
        """(most bytes of all files, looks)."""
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        values = memoryview(self._shared).cast("q")
        return values[0], values[1]

    def _watch(self) -> None:
        values = memoryview(self._shared).cast("q")
        while True:
            size = max(self._files(), self._blocks() - self._empty if self._own else 0)
            values[0], values[1] = max(values[0], size), values[1] + 1
            time.sleep(0.01)

    def _blocks(self) -> int:
        status = os.statvfs(self._folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def _files(self) -> int:
        """Sizes of all files. Of a listing amid which one went, none are known: 0.

        Their blocks are not counted: ext4 adds one of its own to a file in five pieces or more.
        """
        sizes, names = 0, set(os.listdir(self._folder))
        for name in names:
            try:
                sizes += os.stat(self._folder / name).st_size
            except FileNotFoundError:
                return 0
        return sizes if set(os.listdir(self._folder)) == names else 0


@contextlib.contextmanager
def watching(folder: Path, cap: int) -> Iterator[None]:
    watcher = Watcher(folder)
    try:
        yield
    finally:
        largest, looks = watcher.stop()
    assert looks > 0 and largest <= cap, f"{largest:,} bytes seen, the cap is {cap:,}"


def check(folder: Path, cap: int, counts: Counter[str]) -> None:
    """Opens the cache, and reads all that is found."""
    with warnings.catch_warnings(), DiskCache(folder, cap) as cache:
        no_damage()
        space = space_of(cache)
        for number in range(NUM_CHAINS):
            keys = keys_of(number)
            found = num_found(space, keys)
            counts["blocks found"] += found
            counts["blocks lost to damage"] += found - read(space, keys[:found])
            counts["states read"] += sum(
                read(space, [key], key)
                for key, one in zip(keys[:found], space.find(keys[:found]), strict=True) if one.state
            )  # fmt: skip
        counts["starts"] += 1


def kill_rounds(folder: Path, count: int, processes: int, seed: int, cap: int = CAP) -> Counter[str]:
    """Kills `count` writers, `processes` of which work at once."""
    draws, counts = random.Random(seed), Counter[str]()
    while counts["kills"] < count:
        ends = {}
        for _ in range(processes):
            number = draws.randrange(1 << 30)
            child = in_child(lambda number=number: write_for_ever(folder, cap, number))
            ends[child] = time.monotonic() + draws.uniform(0, LONGEST_S)
        for child, end in sorted(ends.items(), key=lambda item: item[1]):
            time.sleep(max(end - time.monotonic(), 0))
            os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code == -signal.SIGKILL, "a writer failed: see above"
            counts["kills"] += 1
        check(folder, cap, counts)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty one (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        watcher = Watcher(folder)
        try:
            counts = kill_rounds(folder, args.count, args.processes, args.seed)
        except AssertionError as error:
            print(error)
            return 1
        finally:
            largest, looks = watcher.stop()
    print(", ".join(f"{name}: {count:,}" for name, count in counts.items()))
    print(f"most bytes seen in {looks:,} looks: {largest:,}, cap {CAP:,}")
    return int(largest > CAP)


if __name__ == "__main__":
    sys.exit(main())
