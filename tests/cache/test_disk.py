"""The prefix cache on disk: what was put is found and read, by this process and the next; a cap that holds."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
import threading
from pathlib import Path

import pytest
import xxhash

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
from wavefold.cache import disk_index, disk_write
from wavefold.cache.disk import DiskCache
from wavefold.system import Notice

CAP = 64 << 20


@pytest.mark.parametrize("aligned", [True, False], ids=["at pages", "anywhere"])
def test_what_was_put_is_read(tmp_path: Path, aligned: bool) -> None:
    keys = chain("a", 40)
    with DiskCache(tmp_path / "cache", CAP) as cache:
        space = space_of(cache)
        assert num_found(space, keys) == 0
        put(space, keys, states=(15, 39))
        cache.flush()
        for _ in range(2):
            found = space.find(keys)
            assert all(one.block for one in found) and [at for at, one in enumerate(found) if one.state] == [15, 39]
            assert read(space, keys, keys[-1], aligned) == 40
        assert read(space, keys[:16], keys[15], aligned) == 16
        assert read(space, keys, keys[7], aligned) == 0, "a state that is not there"
        assert read(space, [*keys[:3], bytes(32), *keys[3:]], None, aligned) == 3


def test_the_next_process_finds_it(tmp_path: Path) -> None:
    keys = chain("a", 40)
    with DiskCache(tmp_path, CAP) as cache:
        put(space_of(cache), keys, states=(39,))
    with DiskCache(tmp_path, CAP) as cache:
        assert read(space_of(cache), keys, keys[-1]) == 40
        put(space_of(cache), keys, states=(39,))
        cache.flush()
        assert cache.stats().get("written records", 0) == 0, "what is there is not written again"


def test_a_record_is_one_write_of_hardly_more_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the sizes of Flash."""
    sizes, pwrite = [], os.pwrite
    block, state = bytes(449_824), bytes(20_573_568)
    with DiskCache(tmp_path, 1 << 30) as cache:
        space = cache.space(DIGEST, len(block), len(state), "")
        monkeypatch.setattr(os, "pwrite", lambda *a: sizes.append(len(a[1])) or pwrite(*a))
        keys, parent = chain("a", 32), DIGEST
        for key in keys:
            space.put(key, parent, memoryview(block), memoryview(state) if key == keys[-1] else None)
            parent = key
        cache.flush()
    assert sum(size > 4096 for size in sizes) == 33
    assert sum(sizes) <= 1.01 * (32 * len(block) + len(state))
    assert size_of(tmp_path) <= 1.01 * (32 * len(block) + len(state)) + 4096


def test_large_prompts_are_read_in_large_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that follow one another together, the last ones in smaller requests, a state in pieces."""
    length, keys, sizes, preadv = 400_000, chain("a", 96), [], os.preadv
    blocks = [payload(key, 64) * (length // 64) for key in keys]
    state = payload(keys[-1], 10_000_000)
    memory = memoryview(mmap.mmap(-1, 96 * 401_408))
    places, state_place = [memory[at * 401_408 :][:length] for at in range(96)], memoryview(bytearray(len(state)))
    with DiskCache(tmp_path, 1 << 30) as cache:
        space, parent = cache.space(DIGEST, length, len(state), ""), DIGEST
        for key, block in zip(keys, blocks, strict=True):
            space.put(key, parent, memoryview(block), memoryview(state) if key == keys[-1] else None)
            parent = key
        cache.flush()
        monkeypatch.setattr(os, "preadv", lambda *a: sizes.append(sum(map(len, a[1]))) or preadv(*a))
        assert space.read(keys, places, keys[-1], state_place) == 96
    assert all(place == block for place, block in zip(places, blocks, strict=True)) and state_place == state
    assert max(sizes) <= 4 << 20 and sum(sizes) < 1.02 * (96 * length + len(state))
    assert sum(size == 10 * 401_408 for size in sizes) >= 2 and len(sizes) < 50


@pytest.mark.parametrize("room", [9_000, 10_000, 12_288, 16_384])
@pytest.mark.parametrize("shift", [0, 64])
def test_memory_with_room_for_a_slot_needs_no_other(
    tmp_path: Path, room: int, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of 9,000 bytes in slots of 12,288: what is behind them in the caller's memory is not the next one's."""
    keys, sizes, preadv = chain("a", 5), [], os.preadv
    stride = -(-room // 4096) * 4096
    memory = memoryview(mmap.mmap(-1, 5 * stride + shift))
    places = [memory[shift + at * stride :][:room] for at in range(5)]
    with DiskCache(tmp_path, CAP) as cache:
        put(space_of(cache), keys)
        cache.flush()
        monkeypatch.setattr(os, "preadv", lambda *a: sizes.extend(map(len, a[1])) or preadv(*a))
        assert space_of(cache).read(keys, places) == 5
    assert all(place[:9_000] == payload(key, 9_000) for place, key in zip(places, keys, strict=True))
    straight = shift == 0 and room >= 12_288
    assert sizes == ([12_288] * 5 if straight else [8_192, 4_096] * 5 if not shift else [12_288] * 5)
    assert straight or all(not any(memory[shift + at * stride + room : (at + 1) * stride]) for at in range(5))


def test_the_bytes_are_those_of_the_document(tmp_path: Path) -> None:
    """docs/prefix_disk.md, read by hand."""
    keys = chain("a", 3)
    with DiskCache(tmp_path, CAP) as cache:
        put(space_of(cache), keys)
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    assert path.name.startswith(f"{DIGEST[:8].hex()}-0-") and len(data) == 4096 + 3 * 12_288
    assert data[:68] == b"WFPREFIX" + struct.pack("<IIQQI", 1, 0, BLOCK_BYTES, 16, 6) + DIGEST
    assert data[68:4080] == b"a test".ljust(4012, b"\0") and data[4080:4096] == xxhash.xxh3_128_digest(data[:4080])
    for number, (parent, key) in enumerate(zip([DIGEST, *keys], keys, strict=False)):
        slot = data[4096 + number * 12_288 :][:12_288]
        footer = slot[-160:]
        assert slot[:-160] == payload(key, BLOCK_BYTES).ljust(12_128, b"\0")
        assert footer[:32] == b"WFRECORD" + struct.pack("<IIQQ", 1, 0, BLOCK_BYTES, number)
        assert footer[32:128] == DIGEST + key + parent
        assert footer[128:144] == xxhash.xxh3_128_digest(slot[:-32])
        assert footer[144:] == xxhash.xxh3_128_digest(footer[:144])


def test_a_segment_whose_writer_is_gone_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is written still is."""
    monkeypatch.setattr(disk_write, "IDLE_S", 1000.0)
    keys = chain("a", 12)
    with DiskCache(tmp_path, CAP) as first, DiskCache(tmp_path, CAP) as second:
        put(space_of(first), keys[:4])
        first.flush()
        index = space_of(second).index
        assert [segment.may_grow for segment in index._segments.values()] == [True]
        put(space_of(first), keys[4:8], parent=keys[3])
        first.flush()
        index.refresh()
        assert num_found(space_of(second), keys) == 8
        first.writer._close_all()
        index.refresh()
        assert [segment.may_grow for segment in index._segments.values()] == [False]
        put(space_of(first), keys[8:], parent=keys[7])
        first.flush()
        index.refresh()
        assert num_found(space_of(second), keys) == 12 and read(space_of(second), keys) == 12


def test_everything_is_private(tmp_path: Path) -> None:
    with DiskCache(tmp_path / "cache", CAP) as cache:
        put(space_of(cache), chain("a", 3))
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache").iterdir()}
    assert len(modes) == 2 and set(modes.values()) == {0o600}, modes


def test_spaces_do_not_see_each_other(tmp_path: Path) -> None:
    keys = chain("a", 4)
    with DiskCache(tmp_path, CAP) as cache:
        put(space_of(cache), keys)
        cache.flush()
        other = cache.space(bytes(32), BLOCK_BYTES, STATE_BYTES, "another")
        assert num_found(other, keys) == 0 and read(other, keys) == 0


def test_a_block_without_its_parent_is_not_kept(tmp_path: Path) -> None:
    keys = chain("a", 4)
    with DiskCache(tmp_path, CAP) as cache:
        put(space_of(cache), keys[2:], parent=keys[1])
        cache.flush()
        assert not any(one.block for one in space_of(cache).find(keys)) and not segments(tmp_path)
        assert cache.stats()["written orphans"] == 2


def test_forks_share_their_blocks(tmp_path: Path) -> None:
    trunk = chain("trunk", 20)
    forks = [chain(f"fork {number}", 10, trunk[at]) for number, at in enumerate((3, 11, 19))]
    with DiskCache(tmp_path, CAP) as cache:
        put(space_of(cache), trunk)
        for fork, at in zip(forks, (3, 11, 19), strict=True):
            put(space_of(cache), fork, parent=trunk[at])
        cache.flush()
        for fork, at in zip(forks, (3, 11, 19), strict=True):
            assert read(space_of(cache), [*trunk[: at + 1], *fork]) == at + 11
        assert cache.stats()["written records"] == 50


def test_two_processes_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two caches of one process stand for them: they share nothing but files."""
    monkeypatch.setattr(disk_index, "REFRESH_S", 0.0)
    keys, others = chain("a", 20), chain("b", 20)
    with DiskCache(tmp_path, CAP) as first, DiskCache(tmp_path, CAP) as second:
        put(space_of(first), keys[:10])
        put(space_of(second), others)
        first.flush(), second.flush()
        assert num_found(space_of(second), keys) == 10 and read(space_of(second), keys) == 10
        put(space_of(first), keys[10:], parent=keys[9])
        first.flush()
        assert num_found(space_of(second), keys) == 20 and read(space_of(second), keys) == 20
        assert num_found(space_of(first), others) == 20 and read(space_of(first), others) == 20
        put(space_of(second), keys)
        second.flush()
        assert second.stats()["written records"] == 20


def test_a_look_at_the_folder_amid_a_write_makes_no_stranger_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A prompt is looked for while it is written: once its file is gone it is not there, and is written again."""
    monkeypatch.setattr(disk_index, "REFRESH_S", 0.0)
    keys, write = chain("a", 5), disk_write._write_all
    with DiskCache(tmp_path, CAP) as cache:
        space = space_of(cache)

        def looking(*arguments: object) -> None:
            space.find(keys)
            write(*arguments)  # type: ignore[arg-type]
            space.find(keys)

        monkeypatch.setattr(disk_write, "_write_all", looking)
        put(space, keys, states=(4,))
        cache.flush()
        assert read(space, keys, keys[-1]) == 5
        for path in segments(tmp_path):
            path.unlink()
        assert num_found(space, keys) == 0
        put(space, keys, states=(4,))
        cache.flush()
        assert read(space, keys, keys[-1]) == 5


def test_a_failed_turn_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock would keep the segment from being removed, and the cap from being held."""
    keys = chain("a", 12)
    with pytest.warns(Notice, match="cannot be written"), DiskCache(tmp_path, CAP) as cache:
        space = space_of(cache)
        put(space, keys[:4])
        cache.flush()
        before = len(os.listdir("/proc/self/fd"))

        def failing(self: object) -> object:
            raise OSError(errno.EAGAIN, "the lock is another's")

        with monkeypatch.context() as patch:
            patch.setattr(type(cache._ledger), "turn", failing)
            put(space, keys[4:], parent=keys[3])
            cache.flush()
        assert cache.stats()["written errors"] and len(os.listdir("/proc/self/fd")) == before - 1


@pytest.mark.parametrize("segments_of_cap", [3, 8, 12])
def test_the_cap_holds_and_the_least_recently_used_goes(tmp_path: Path, segments_of_cap: int) -> None:
    """Chains are put one after another, and the first is used again each time: it stays, whole."""
    cap = segments_of_cap * 200_000
    first = chain("first", 8)
    with DiskCache(tmp_path, cap) as cache:
        space = space_of(cache)
        put(space, first)
        for number in range(30):
            put(space, chain(number, 8))
            cache.flush()
            assert size_of(tmp_path) <= cap
            cache.writer._close_all()
            space.touch(first)
            cache.flush()
        assert read(space, first) == 8
        last = [number for number in range(30) if num_found(space, chain(number, 8)) == 8]
        assert last == list(range(30 - len(last), 30)) and 0 < len(last) < 30


def test_a_chain_goes_from_its_tail(tmp_path: Path) -> None:
    """What is left of it is a head, and the order outlives the process."""
    keys = chain("long", 200)
    with DiskCache(tmp_path, CAP) as cache:
        put(space_of(cache), keys, states=(63, 127, 199))
    used = size_of(tmp_path)
    left = 200
    for part in (0.9, 0.6, 0.3):
        with DiskCache(tmp_path, int(used * part)) as cache:
            assert size_of(tmp_path) <= int(used * part)
            found = [one.block for one in space_of(cache).find(keys)]
            assert found == sorted(found, reverse=True) and 0 < sum(found) < left
            left = sum(found)
            assert read(space_of(cache), keys) == left


def test_a_prompt_longer_than_the_cache_keeps_its_head(tmp_path: Path) -> None:
    keys, cap = chain("long", 300), 1_000_000
    with DiskCache(tmp_path, cap) as cache:
        with pytest.warns(Notice, match="longer than the cache"):
            put(space_of(cache), keys)
            cache.flush()
        assert size_of(tmp_path) <= cap
        count = num_found(space_of(cache), keys)
        assert count >= 60 and read(space_of(cache), keys) == count
        assert not any(one.block for one in space_of(cache).find(keys)[count:])


def test_a_cap_below_one_record(tmp_path: Path) -> None:
    with DiskCache(tmp_path, 10_000) as cache:
        with pytest.warns(Notice, match="expected 81,920 at least, 4 states of this model"):
            space = space_of(cache)
        with pytest.warns(Notice, match="no room for a record"):
            put(space, chain("a", 3))
            cache.flush()
        assert size_of(tmp_path) <= 10_000 and num_found(space_of(cache), chain("a", 3)) == 0
    with pytest.raises(ValueError, match="cap_bytes = 0 is not allowed"):
        DiskCache(tmp_path, 0)


def test_sizes_that_are_not_the_spaces_are_refused(tmp_path: Path) -> None:
    with DiskCache(tmp_path, CAP) as cache:
        with pytest.raises(ValueError, match="expected 9,000 bytes and keys of 32"):
            space_of(cache).put(bytes(32), DIGEST, memoryview(bytes(8_999)), None)
        with pytest.raises(ValueError, match="memory of 10 bytes is not allowed; expected 9,000"):
            space_of(cache).read([bytes(32)], [memoryview(bytearray(10))])
        with pytest.raises(ValueError, match="a digest of 3 bytes"):
            cache.space(b"abc", 1, 1, "")


def test_many_threads(tmp_path: Path) -> None:
    """16 threads put, find and read chains under a cap that does not hold all of them."""
    wrong: list[str] = []
    with DiskCache(tmp_path, 2_000_000) as cache:
        space = space_of(cache)

        def work(number: int) -> None:
            try:
                for turn in range(12):
                    keys = chain((number * 5 + turn) % 40, 12)
                    put(space, keys, states=(11,))
                    count = num_found(space, keys)
                    read(space, keys[:count], aligned=turn % 2 == 0)
                    space.touch(keys)
            except BaseException as error:
                wrong.append(repr(error))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cache.flush()
        assert size_of(tmp_path) <= 2_000_000
    assert not wrong, wrong


def test_after_the_end_nothing_is_there(tmp_path: Path) -> None:
    keys = chain("a", 3)
    cache = DiskCache(tmp_path, CAP)
    space = space_of(cache)
    put(space, keys)
    cache.close()
    assert read(space, keys) == 0
    put(space, chain("b", 3))
    cache.close()
    assert len(segments(tmp_path)) == 1
