"""Several processes at one queue, one of which opens it often: SQLite's locks stay, and so does its log.

A process that closes any descriptor of a file loses all POSIX locks that it has on it. SQLite's documentation names
this as a way to corrupt a database (https://www.sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.jobs.test_serve import needs, started
from tests.jobs.working import added, line, write_lines
from wavefold.jobs.queue import Queue

WORKING = """
import os, sys
from pathlib import Path
from wavefold.jobs.queue import Queue

folder, path = Path(sys.argv[1]), Path(sys.argv[2])
with Queue(folder, create=True) as worker:
    worker.files()
    for _ in sys.stdin:
        with Queue(folder, create=True) as request:
            print(request.add(request.keep(path)), flush=True)
"""
OPENING = """
import os, sys, threading
from pathlib import Path
from wavefold.jobs import schema
from wavefold.jobs.desk import Desk
from wavefold.jobs.queue import Queue

opened = []
def note(event, values):
    if event == "open" and Path(str(values[0])).name.startswith("queue.db"):
        opened.append(values)
sys.addaudithook(note)
folder, path = Path(sys.argv[1]), Path(sys.argv[2])
threads = [threading.Thread(target=lambda: Queue(folder, create=True).close()) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with Queue(folder, create=True) as queue, Queue(folder) as other:
    desk = Desk(queue)
    desk.begin()
    batch = queue.add(queue.keep(path))
    desk.turn(room=4)
    schema.check_whole(other.connection, folder)
    other.cancel(batch)
    other.remove(batch)
print(sum(not flags & os.O_EXCL for _, _, flags in opened), len(opened))
"""
"""Prints how often the database was opened beside SQLite: where it may have been there, and at all."""


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def is_whole(folder: Path) -> bool:
    with Queue(folder) as queue:
        return bool(queue.rows("PRAGMA integrity_check")[0][0] == "ok")


def inode_of(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_reader_beside_a_process_that_opens_it_often(tmp_path: Path, is_killed: bool) -> None:
    """The log stays while it is in use, and nothing that was added is lost."""
    folder, path = tmp_path / "jobs", write_lines(tmp_path / "in", [line(str(number)) for number in range(50)])
    process = subprocess.Popen([sys.executable, "-c", WORKING, str(folder), str(path)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    batches: list[str] = []
    try:
        for _ in range(5):
            batches.append(told(process))
            log = inode_of(folder / "queue.db-wal")
            with Queue(folder) as queue:
                batches.append(added(queue, [line("here")]))
            assert inode_of(folder / "queue.db-wal") == log
    finally:
        process.kill() if is_killed else process.communicate()
        process.wait(60)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    with Queue(folder) as queue:
        assert [row["id"] for row in queue.batches()] == batches[::-1]
        assert queue.rows("SELECT count(*) FROM lines")[0][0] == 5 * 51
    assert is_whole(folder)


def test_nothing_opens_the_database_beside_sqlite(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in", [line("a")])
    command = [sys.executable, "-c", OPENING, str(tmp_path / "jobs"), str(path)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert found[0] == "0" and int(found[1]) >= 1


def test_a_new_one_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Queue(tmp_path / "jobs", create=True) as queue:
            added(queue, [line("a")])
            for name in ("queue.db", "queue.db-wal", "queue.db-shm"):
                assert stat.S_IMODE((queue.folder / name).stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "queue.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link"):
        Queue(tmp_path / "jobs", create=True)
    assert not (tmp_path / "elsewhere").exists()


@needs
def test_a_server_and_the_command_line(tmp_path: Path) -> None:
    """Requests over HTTP and commands in turn; then the server is killed."""
    folder, path = tmp_path / "jobs", write_lines(tmp_path / "in", [{"prompt": "def f(", "max_tokens": 4}] * 3)
    command = [sys.executable, "-m", "wavefold", "jobs"]
    process, port = started(folder)
    ids = []
    try:
        for _ in range(3):
            with urllib.request.urlopen(f"http://localhost:{port}/v1/batches?limit=1", timeout=60) as answer:
                assert [one["id"] for one in json.load(answer)["data"]] == ids[-1:]
            log = inode_of(folder / "queue.db-wal")
            words = ["add", str(path), "--model", "wavefold", "--jobs", str(folder)]
            ids.append(subprocess.run([*command, *words], check=True, capture_output=True, text=True).stdout.strip())
            assert inode_of(folder / "queue.db-wal") == log
    finally:
        process.kill()
        process.communicate()
    with Queue(folder) as queue:
        assert [row["id"] for row in queue.batches()] == ids[::-1]
    assert is_whole(folder)


@needs
def test_a_queue_that_is_removed_is_not_made_again(tmp_path: Path) -> None:
    """A batch would be taken that nobody works on."""
    from tests.server.running import wait_until

    folder = tmp_path / "jobs"
    process, port = started(folder)
    form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n--b--\r\n'
    upload = urllib.request.Request(f"http://localhost:{port}/v1/files", form,
                                    {"content-type": "multipart/form-data; boundary=b"})  # fmt: skip
    try:
        wait_until(lambda: (folder / "worker.json").exists())  # the worker has it open, and no request has come
        shutil.rmtree(folder)
        for asked_for in (f"http://localhost:{port}/v1/batches", upload):
            with pytest.raises(urllib.error.HTTPError, match="503") as error:
                urllib.request.urlopen(asked_for, timeout=60)
            assert json.load(error.value)["error"]["code"] == "queue_not_ready"
        assert not (folder / "queue.db").exists()
        Queue(folder, create=True).close()  # as `wavefold jobs add` would
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://localhost:{port}/v1/batches", timeout=60)
    finally:
        process.kill()
        process.communicate()
