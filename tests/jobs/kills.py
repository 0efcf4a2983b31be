"""A worker that is killed at random moments, and whose disk fills up: each line has its one result, and no other.

    python -m tests.jobs.kills --lines 10000 --models 4 --kills 200 --full-disks 20

Batches of several priorities over several models are added by processes that are killed too. The disk is a small file
system of its own (as root), or a limit on the size of files (`--limit-files`). Prints figures; fails where a line has
no result, two, or a wrong one, where models were swapped more than 1.1 times as often as by the best of all orders,
and where `PRAGMA integrity_check` finds anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.jobs.test_order import all_orders
from tests.jobs.working import Answering, answer_of, line, write_lines
from wavefold.jobs import board
from wavefold.jobs.order import num_swaps
from wavefold.jobs.queue import Queue, Wanted
from wavefold.jobs.worker import Worker

WIDTH = 8
PRIORITIES = (0, 0, 0, 5, 5, -3)
"""Of the batches."""


class SmallDisk:
    """A file system of so many megabytes in a folder. Raises OSError where none can be mounted."""

    def __init__(self, folder: Path, megabytes: int):
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            raise OSError("no file system can be mounted here (needs root)")

    def fill(self, process: int) -> None:
        with (self.folder / "ballast").open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def free(self, process: int) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


class LimitedFiles:
    """The process may write to the first bytes of files alone: none of its changes fits."""

    def fill(self, process: int) -> None:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    def free(self, process: int) -> None:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def close(self) -> None:
        pass


@dataclass
class Counts:
    """What happened."""

    kills: int = 0
    at_work: int = 0
    """Kills that met lines under way."""
    kills_of_adds: int = 0
    full: int = 0
    killed_while_full: int = 0
    begun_while_full: int = 0
    lines: int = 0
    swaps: int = 0
    best: int = 0
    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)


def batches_of(rng: random.Random, num_lines: int, models: str) -> list[tuple[int, list[dict[str, Any]]]]:
    """Returns batches, each a priority and lines: most are answered, others refused, or tried again first."""
    batches: list[tuple[int, list[dict[str, Any]]]] = [(priority, []) for priority in PRIORITIES]
    for number in range(num_lines):
        _, lines = rng.choice(batches)
        draw, body = rng.random(), {"pad": "x" * rng.randrange(600), "seconds": rng.random() * 0.03}
        if draw < 0.05:
            body["status"] = 400
        elif draw < 0.1:
            body["fails"] = (rng.choice((503, 500, 0)), 1)
        lines.append(line(f"line {number}", rng.choice(models), **body))
    return [(priority, lines) for priority, lines in batches if lines]


def forked(function: Callable[[], None]) -> int:
    """Calls a function in a process of its own, which is returned."""
    if child := os.fork():
        return child
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def run_worker(folder: Path) -> None:
    """Works until the process is killed, or ended by SIGTERM."""
    logging.getLogger("wavefold.jobs").setLevel(logging.CRITICAL)

    async def main() -> None:
        worker = Worker(folder, Answering(memory=folder.parent.parent), lambda model: WIDTH)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()

    asyncio.run(main())


def add_all(folder: Path, batches: list[tuple[int, list[dict[str, Any]]]], rng: random.Random, counts: Counts) -> None:
    """Adds the batches in this order, each by processes of which the first ones are killed."""
    for number, (priority, lines) in enumerate(batches):
        path = write_lines(folder.parent / "lines.jsonl", lines)

        def add(path: Path = path, priority: int = priority) -> None:
            with Queue(folder, create=True) as queue:
                queue.add(queue.keep(path), Wanted(priority=priority))

        for attempt in range(4):
            child = forked(add)
            if attempt < 3:
                time.sleep(rng.random() * (0.02 + len(lines) * 3e-5))
                os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            counts.kills_of_adds += status == -signal.SIGKILL
            with Queue(folder, create=True) as queue:
                known = len(queue.batches())
                assert known in (number, number + 1), "a batch was added twice"
            if known == number + 1:
                break
        assert known == number + 1, "a batch was not added"


def num_ended(folder: Path) -> int:
    return look(folder, "SELECT count(*) FROM results")


def look(folder: Path, statement: str) -> int:
    """Returns the one number that a statement reads."""
    connection = sqlite3.connect(f"file:{folder / 'queue.db'}?mode=ro", uri=True, timeout=30)
    try:
        return int(connection.execute(statement).fetchone()[0])
    finally:
        connection.close()


def is_done(folder: Path) -> bool:
    return look(folder, "SELECT count(*) FROM batches WHERE state = 'in_progress'") == 0


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, "it did not become so"
        time.sleep(0.002)


def pause_of(folder: Path) -> str:
    """Returns what the worker says of its disk; empty where the disk has room."""
    said = board.look(folder)
    words = str(said["paused"] or "") if said else ""
    return words if "the disk" in words else ""


class Disturbed:
    """One queue that is worked on, and disturbed."""

    def __init__(self, folder: Path, disk: SmallDisk | LimitedFiles, rng: random.Random, counts: Counts):
        self.folder, self.disk, self.rng, self.counts = folder, disk, rng, counts
        self.process: int | None = None

    def begun(self) -> int:
        """Returns the process of a new worker."""
        self.process = forked(lambda: run_worker(self.folder))
        return self.process

    def close(self) -> None:
        """Leaves no worker behind."""
        if self.process is not None:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)

    def kill(self, process: int) -> None:
        self.process = None
        os.kill(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL, "the worker had ended itself"

    def killed_at_random(self, most_s: float) -> None:
        worker = self.begun()
        time.sleep(self.rng.random() * most_s)
        self.kill(worker)
        self.counts.kills += 1
        self.counts.at_work += look(self.folder, "SELECT count(*) FROM lines WHERE state = 1") > 0

    def filled(self) -> None:
        """The disk fills up while a worker works; then the worker goes on, or is killed and another one begins."""
        worker = self.begun()
        before = num_ended(self.folder)
        wait_until(lambda: num_ended(self.folder) > before or is_done(self.folder))
        self.disk.fill(worker)
        said: list[str] = []
        wait_until(lambda: said.append(pause_of(self.folder)) or bool(said[-1]) or is_done(self.folder))
        if not said[-1]:
            self.disk.free(worker)
            self.kill(worker)
            return
        self.counts.full += 1
        assert "the disk is full" in said[-1] or "the disk cannot be read or written" in said[-1], said[-1]
        if self.counts.full % 2:
            self.kill(worker)
            self.counts.killed_while_full += 1
            worker = self.begun()
            if isinstance(self.disk, SmallDisk):
                wait_until(lambda: bool(pause_of(self.folder)))
                self.counts.begun_while_full += 1
        self.disk.free(worker)
        before = num_ended(self.folder)
        wait_until(lambda: num_ended(self.folder) > before or is_done(self.folder))
        self.kill(worker)

    def ended(self) -> None:
        """A worker that nobody disturbs does the rest."""
        worker = self.begun()
        wait_until(lambda: is_done(self.folder), 600)
        self.process = None
        os.kill(worker, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0


def check(folder: Path, batches: list[tuple[int, list[dict[str, Any]]]], counts: Counts) -> None:
    """Holds what is in the queue against what was added."""
    assert look_text(folder, "PRAGMA integrity_check") == ["ok"]
    assert look_text(folder, "PRAGMA foreign_key_check") == []
    with Queue(folder) as queue:
        rows = queue.batches()[::-1]
        assert [row["state"] for row in rows] == ["completed"] * len(batches)
        for row, (_, lines) in zip(rows, batches, strict=True):
            found = [json.loads(text) for text in queue.results(row["number"])]
            assert [one["custom_id"] for one in found] == [one["custom_id"] for one in lines]
            for one, asked in zip(found, lines, strict=True):
                status = one["response"]["status_code"]
                assert status == asked["body"].get("status", 200), (status, asked)
                if status == 200:
                    assert one["response"]["body"] == answer_of(json.dumps(asked["body"]))
                counts.statuses[status] = counts.statuses.get(status, 0) + 1
            for kind in ("output_file", "error_file"):
                content = b"".join(queue.content(row[kind])) if row[kind] else b""
                assert not row[kind] or queue.file(row[kind])["bytes"] == len(content)
        counts.lines = sum(len(lines) for _, lines in batches)
        assert len(queue.rows("SELECT 1 FROM results")) == counts.lines
        order = queue.rows("SELECT groups.model FROM results JOIN lines ON lines.number = results.line JOIN groups "
                           "ON groups.number = lines.groups ORDER BY results.number")  # fmt: skip
        counts.swaps = num_swaps([row["model"] for row in order], None)
        assert counts.swaps == sum(row["swaps"] for row in rows)
    levels = [
        dict.fromkeys((one["body"]["model"] for other, lines in batches if other == priority for one in lines), 0)
        for priority in sorted({priority for priority, _ in batches}, reverse=True)
    ]
    counts.best = min(num_swaps(models, None) for models in all_orders(levels))
    assert counts.swaps <= 1.1 * counts.best, (counts.swaps, counts.best)


def look_text(folder: Path, statement: str) -> list[str]:
    connection = sqlite3.connect(folder / "queue.db")
    try:
        return [str(row[0]) for row in connection.execute(statement)]
    finally:
        connection.close()


def disturb(
    place: Path, num_lines: int, num_models: int, num_kills: int, num_full: int, seed: int = 1,
    limit_files: bool = False,
) -> Counts:  # fmt: skip
    """Disturbs a queue in `place`, which is made, so often, and checks it. Notes are beside it. Returns the counts."""
    rng, counts, began = random.Random(seed), Counts(), time.monotonic()
    place.mkdir(exist_ok=True)
    disk: SmallDisk | LimitedFiles = LimitedFiles() if limit_files else SmallDisk(place, 64)
    folder = place / "jobs"
    disturbed = Disturbed(folder, disk, rng, counts)
    try:
        batches = batches_of(rng, num_lines, "ABCDEFGH"[:num_models])
        add_all(folder, batches, rng, counts)
        full_at = set(rng.sample(range(num_kills + num_full), num_full))
        most_s = max(0.05, num_lines * 0.015 / WIDTH / max(1, num_kills + num_full))
        for number in range(num_kills + num_full):
            assert not is_done(folder), f"the lines were done after {number} disturbances: more lines are needed"
            if number in full_at:
                disturbed.filled()
            else:
                disturbed.killed_at_random(most_s)
        disturbed.ended()
        check(folder, batches, counts)
    finally:
        disturbed.close()
        disk.close()
    counts.seconds = time.monotonic() - began
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--full-disks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit-files", action="store_true", help="a limit on the size of files in place of a disk")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(disturb(Path(folder) / "place", args.lines, args.models, args.kills, args.full_disks, args.seed,
                      args.limit_files))  # fmt: skip


if __name__ == "__main__":
    main()
