"""Files that are not what was written, and disks that do not write: misses, said once, never a wrong payload."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.disk_chains import (
    BLOCK_BYTES,
    DIGEST,
    STATE_BYTES,
    chain,
    num_found,
    payload,
    put,
    read,
    segments,
    size_of,
    space_of,
)
from tests.cache.disk_kills import in_child
from tests.disks import small_disk
from wavefold.cache import disk_write
from wavefold.cache.disk import DiskCache
from wavefold.cache.segment import FOOTER_BYTES, PAGE, STATE, Header
from wavefold.system import Notice
from wavefold.system.reading import DirectFile

CAP = 64 << 20
KEYS = chain("a", 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six blocks in one segment, and a state."""
    with DiskCache(tmp_path / "cache", CAP) as cache:
        put(space_of(cache), KEYS, states=(5,))
    assert len(segments(tmp_path / "cache")) == 2
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Notices have tests of their own here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        yield


def blocks_file(folder: Path) -> Path:
    return next(path for path in segments(folder) if "-0-" in path.name)


def state_file(folder: Path) -> Path:
    return next(path for path in segments(folder) if f"-{STATE}-" in path.name)


def num_right(folder: Path, keys: list[bytes] = KEYS, state_key: bytes | None = None) -> int:
    """What a new process reads, each payload compared with its key."""
    with DiskCache(folder, CAP) as cache:
        return read(space_of(cache), keys, state_key)


def test_every_byte_of_a_record_flipped(tmp_path: Path) -> None:
    """And of a header: each time this record, or all of the segment, is a miss; nothing else."""
    length, keys = 100, chain("a", 2)
    slot = Header(0, length, 1, DIGEST, "").slot_bytes
    with DiskCache(tmp_path, CAP) as cache:
        space, parent = cache.space(DIGEST, length, 1, ""), DIGEST
        for key in keys:
            space.put(key, parent, memoryview(payload(key, length)), None)
            parent = key
    data = blocks_file(tmp_path).read_bytes()
    assert len(data) == PAGE + 2 * slot
    memory, payloads = memoryview(bytearray(length)), [payload(key, length) for key in keys]
    with DiskCache(tmp_path, CAP) as cache, blocks_file(tmp_path).open("r+b", buffering=0) as file:
        for at in range(-1, PAGE + slot):
            if at >= 0:
                os.pwrite(file.fileno(), bytes([data[at] ^ 1 << at % 8]), at)
            cache._spaces.clear()
            space, rights = cache.space(DIGEST, length, 1, ""), []
            for key, right in zip(keys, payloads, strict=True):
                rights.append(space.read([key], [memory]) == 1)
                assert not rights[-1] or bytes(memory) == right
            assert rights == ([True, True] if at < 0 else [False, False] if at < PAGE else [False, True]), at
            if at >= 0:
                os.pwrite(file.fileno(), data[at : at + 1], at)


def test_every_byte_of_a_real_size_flipped_in_memory() -> None:
    """The checksums of a block of Flash: one bit anywhere, and it is not the record."""
    from wavefold.cache.segment import is_right, seal

    header = Header(0, 449_824, 16, DIGEST, "")
    slot = bytearray(payload(KEYS[0], header.length).ljust(header.slot_bytes, b"\0"))
    with memoryview(slot) as view:
        seal(header, 3, KEYS[0], DIGEST, view)
        parts = [view[: header.whole_bytes], view[header.whole_bytes :]]
        assert is_right(header, 3, KEYS[0], parts)
        assert not is_right(header, 2, KEYS[0], parts) and not is_right(header, 3, KEYS[1], parts)
        for at in [*range(0, len(slot), 97), *range(len(slot) - 2 * FOOTER_BYTES, len(slot))]:
            slot[at] ^= 1 << at % 8
            assert not is_right(header, 3, KEYS[0], parts), at
            slot[at] ^= 1 << at % 8
        assert is_right(header, 3, KEYS[0], parts)


def test_truncated_files(folder: Path) -> None:
    """Within the header, at its end, within a payload, its padding, a footer, and at the ends of records."""
    path = blocks_file(folder)
    data = path.read_bytes()
    slot = Header(0, BLOCK_BYTES, 16, DIGEST, "").slot_bytes
    inside = (0, 1, 100, BLOCK_BYTES, BLOCK_BYTES + 10, slot - FOOTER_BYTES, slot - 16, slot - 1)
    lengths = {0, 1, 100, PAGE - 1, *(PAGE + number * slot + at for number in range(6) for at in inside), len(data)}
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        assert num_right(folder) == max(length - PAGE, 0) // slot, length
    path.write_bytes(data + bytes(100_000))
    assert num_right(folder) == 6


def test_a_truncated_state_takes_the_blocks_with_it(folder: Path) -> None:
    assert num_right(folder, state_key=KEYS[-1]) == 6
    os.truncate(state_file(folder), PAGE + STATE_BYTES // 2)
    assert num_right(folder, state_key=KEYS[-1]) == 0 and num_right(folder) == 6


def test_a_file_that_shrinks_while_it_is_open(folder: Path) -> None:
    """The index has the records; the reads come up short."""
    with DiskCache(folder, CAP) as cache:
        space = space_of(cache)
        assert num_found(space, KEYS) == 6
        os.truncate(blocks_file(folder), PAGE + 40_000)
        assert read(space, KEYS) == 3 and cache.stats()["read corrupt"] == 3
        assert num_found(space, KEYS) == 3, "what was damaged is not found again"
        put(space, KEYS)
        cache.flush()
        assert read(space, KEYS) == 6


def test_reordered_records(folder: Path) -> None:
    """A slot says which one it is: two that changed places are misses."""
    path = blocks_file(folder)
    data = path.read_bytes()
    slot = Header(0, BLOCK_BYTES, 16, DIGEST, "").slot_bytes
    slots = [data[PAGE + at * slot : PAGE + (at + 1) * slot] for at in range(6)]
    path.write_bytes(data[:PAGE] + b"".join([slots[0], slots[2], slots[1], *slots[3:]]))
    assert num_right(folder) == 1


def test_foreign_files(folder: Path, tmp_path: Path) -> None:
    """Files of anything under names like ours, and of another space, are counted and not used; nothing fails."""
    prefix = blocks_file(folder).name[:16]
    (folder / "notes.txt").write_text("mine")
    (folder / f"{prefix}-0-noise.segment").write_bytes(os.urandom(50_000))
    (folder / f"{prefix}-0-empty.segment").write_bytes(b"")
    (folder / f"{prefix}-0-folder.segment").mkdir()
    (folder / f"{prefix}-0-link.segment").symlink_to(blocks_file(folder))
    os.mkfifo(folder / f"{prefix}-0-pipe.segment")
    with DiskCache(tmp_path / "other", CAP) as cache:
        put(cache.space(bytes(32), BLOCK_BYTES, STATE_BYTES, "another"), chain("b", 3, bytes(32)), parent=bytes(32))
    shutil.copy(blocks_file(tmp_path / "other"), folder / f"{prefix}-0-other.segment")
    with pytest.warns(Notice) as notices, DiskCache(folder, CAP) as cache:
        space = space_of(cache)
        assert read(space, KEYS, KEYS[-1]) == 6
        assert num_found(space, chain("b", 3, bytes(32))) == 0
        stats = cache.stats()
    assert (stats["damaged segments"], stats["foreign segments"]) == (2, 1)
    texts = [str(notice.message) for notice in notices]
    assert sorted("damaged" in text for text in texts) == [False, True], texts
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_newer_format(folder: Path) -> None:
    path = blocks_file(folder)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 8, 2)
    path.write_bytes(data)
    with pytest.warns(Notice, match="were written by a newer version"), DiskCache(folder, CAP) as cache:
        assert num_found(space_of(cache), KEYS) == 0 and cache.stats()["newer segments"] == 1
        put(space_of(cache), KEYS)
        cache.flush()
        assert read(space_of(cache), KEYS) == 6
    assert path.read_bytes() == bytes(data), "left alone"


@pytest.mark.parametrize(
    "damage", [b"", b"noise", bytes(range(100, 136)), bytes(5000)], ids=["empty", "noise", "bytes", "zeros"]
)
def test_a_damaged_ledger_is_counted_anew(folder: Path, damage: bytes) -> None:
    (folder / "ledger").write_bytes(damage)
    with DiskCache(folder, 200_000) as cache:
        put(space_of(cache), chain("b", 10))
        cache.flush()
        (folder / "ledger").write_bytes(damage)
        put(space_of(cache), chain("c", 10))
        cache.flush()
        assert size_of(folder) <= 200_000 + len(damage) and read(space_of(cache), chain("c", 10)) == 10


def test_damage_is_said_once(folder: Path) -> None:
    for path in segments(folder):
        data = bytearray(path.read_bytes())
        data[PAGE + 100] ^= 1
        path.write_bytes(data)
    with DiskCache(folder, CAP) as cache, pytest.warns(Notice, match="records that were damaged") as notices:
        assert read(space_of(cache), KEYS) == 0
        assert read(space_of(cache), KEYS, KEYS[-1]) == 0
    assert len(notices) == 1 and cache.stats()["read corrupt"] == 2


@pytest.mark.parametrize("damaged_first", [True, False])
@pytest.mark.parametrize("kind", ["block", "state"])
def test_what_was_damaged_is_computed_once(folder: Path, kind: str, damaged_first: bool) -> None:
    """A stale record made a server elsewhere retry for ever. It is written again, and the next process reads that."""
    path = blocks_file(folder) if kind == "block" else state_file(folder)
    data = bytearray(path.read_bytes())
    data[PAGE + 100] ^= 1
    path.write_bytes(data)
    with DiskCache(folder, CAP) as cache:
        assert read(space_of(cache), KEYS, KEYS[-1]) == 0
        put(space_of(cache), KEYS, states=(5,))
        cache.flush()
        assert read(space_of(cache), KEYS, KEYS[-1]) == 6 and cache.stats()["written records"] == 1
    path.rename(path.with_name(f"{path.name[:18]}-{'0' if damaged_first else 'f' * 16}.segment"))
    for _ in range(3):
        with DiskCache(folder, CAP) as cache:
            assert read(space_of(cache), KEYS, KEYS[-1]) == 6
            put(space_of(cache), KEYS, states=(5,))
            cache.flush()
            assert cache.stats().get("written records", 0) == 0
            assert cache.stats().get("read corrupt", 0) == damaged_first


def test_a_full_disk(tmp_path: Path) -> None:
    """Goes on as misses; once there is room, and the pause is over, it writes again."""
    with small_disk(tmp_path / "disk", 200) as enlarge, DiskCache(tmp_path / "disk", CAP) as cache:
        space = space_of(cache)
        with pytest.warns(Notice, match=r"cannot be written \(No space left on device\)") as notices:
            for number in range(10):
                put(space, chain(number, 12), states=(3,))
                cache.flush()
        assert len(notices) == 1
        for number in range(10):
            found = num_found(space, chain(number, 12))
            assert read(space, chain(number, 12)) == found
        assert sum(path.stat().st_size for path in segments(tmp_path / "disk")) <= 200 * 1024
        enlarge()
        cache.writer._paused_until = 0.0
        put(space, chain("later", 12))
        cache.flush()
        assert read(space, chain("later", 12)) == 12


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        with DiskCache(tmp_path, CAP) as cache, pytest.warns(Notice, match="File too large"):
            put(space_of(cache), KEYS)
            cache.flush()
            assert read(space_of(cache), KEYS) == 3

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(work), 0)[1]) == 0
    assert num_right(tmp_path) == 3


def test_a_disk_that_is_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not take in time is not kept, and said once; who puts goes on; later it is taken again."""
    go_on, pwrite, keys = threading.Event(), os.pwrite, chain("a", 12)

    def slow(file: int, data: memoryview, offset: int) -> int:
        assert len(data) <= PAGE or go_on.wait(30)
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    monkeypatch.setattr(disk_write, "WAIT_S", 0.01)
    monkeypatch.setattr(disk_write, "MOST_WAITING", 4 * 12_288)
    with DiskCache(tmp_path, CAP) as cache:
        with pytest.warns(Notice, match="takes too long to write") as notices:
            put(space_of(cache), keys)
        assert len(notices) == 1 and cache.stats()["written dropped"] == 8
        go_on.set()
        cache.flush()
        assert read(space_of(cache), keys) == 4
        monkeypatch.setattr(disk_write, "WAIT_S", 30.0)
        put(space_of(cache), keys)  # more than may wait: it waits with them
        cache.flush()
        assert read(space_of(cache), keys) == 12


def test_a_write_that_fails_amid_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, left = os.pwrite, [5]

    def failing(file: int, data: memoryview, offset: int) -> int:
        if len(data) > PAGE:
            left[0] -= 1
            if not left[0]:
                pwrite(file, data[:PAGE], offset)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    monkeypatch.setattr(disk_write, "PAUSE_S", 0.0)
    with DiskCache(tmp_path, CAP) as cache:
        put(space_of(cache), KEYS)
        cache.flush()
        assert read(space_of(cache), KEYS) == 4
        put(space_of(cache), KEYS)
        cache.flush()
        assert read(space_of(cache), KEYS) == 6
    assert num_right(tmp_path) == 6


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    """What is there is read, by a process that may not write (root may everything: the lock's file is a folder)."""
    (folder / "ledger").unlink()
    (folder / "ledger").mkdir()
    with pytest.warns(Notice, match="cannot be written"), DiskCache(folder, CAP) as cache:
        assert read(space_of(cache), KEYS, KEYS[-1]) == 6
        put(space_of(cache), chain("b", 3))
        cache.flush()
        assert num_found(space_of(cache), chain("b", 3)) == 0


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(Notice, match="cannot be written"), DiskCache(tmp_path / "file" / "cache", CAP) as cache:
        put(space_of(cache), KEYS)
        cache.flush()
        assert read(space_of(cache), KEYS) == 0


def test_a_folder_that_goes(folder: Path) -> None:
    with DiskCache(folder, CAP) as cache:
        space = space_of(cache)
        put(space, chain("b", 3))
        cache.flush()
        shutil.rmtree(folder)
        assert read(space, KEYS) == 0
        put(space, chain("c", 3))
        cache.flush()
        assert num_found(space, chain("c", 3)) == 0 and cache.stats()["written errors"] >= 1


def test_a_segment_that_is_removed_amid_a_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader had opened it, and had no lock yet: a miss, no damage, and no bytes that nobody counts."""
    open_file = DirectFile.__init__

    def slow(file: DirectFile, path: Path, *more: bool) -> None:
        open_file(file, path, *more)
        with DiskCache(folder, 5_000):
            pass
        assert not os.fstat(file.descriptor).st_blocks

    with DiskCache(folder, CAP) as cache:
        monkeypatch.setattr(DirectFile, "__init__", slow)
        assert read(space_of(cache), KEYS) == 0
        assert (cache.stats()["read gone"], cache.stats().get("read corrupt")) == (6, None)
        assert num_found(space_of(cache), KEYS) == 0 and not segments(folder)


def test_a_segment_that_is_removed_amid_a_look(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of a file and the read of its header: it is gone, not damaged."""
    pread = os.pread

    def slow(file: int, size: int, offset: int) -> bytes:
        if size == PAGE and segments(folder):
            with DiskCache(folder, 5_000):
                pass
        return pread(file, size, offset)

    with DiskCache(folder, CAP) as cache:
        monkeypatch.setattr(os, "pread", slow)
        assert num_found(space_of(cache), KEYS) == 0 and cache.stats()["damaged segments"] == 0


def test_segments_that_go_while_they_are_written(folder: Path) -> None:
    """By `rm`, for one: what comes next is written to a new one, where its parents are there."""
    with DiskCache(folder, CAP) as cache:
        space, keys = space_of(cache), chain("b", 6)
        put(space, keys[:3])
        cache.flush()
        for path in segments(folder):
            path.unlink()
        put(space, keys[3:], parent=keys[2])
        cache.flush()
        space.index.refresh()
        assert num_found(space, keys) == 0
        put(space, keys)
        cache.flush()
        assert read(space, keys) == 6
