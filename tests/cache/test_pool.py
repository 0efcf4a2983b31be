"""Sequences in a pool: what is refused, what forks share, how far a rewind goes, what poison shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.cache.synthetic import CONFIG, TwinPool, synthetic_pool
from wavefold.cache import REWIND, PagedView, Pool, PoolFull, Sequence, packed_records, plain_records
from wavefold.config import ModelConfig


def refusals() -> dict[str, tuple[Callable[[Pool, Sequence], object], str]]:
    def closed(pool: Pool, sequence: Sequence) -> Sequence:
        sequence.close()
        return sequence

    return {
        "closed": (lambda p, s: p.begin([closed(p, s)], [1]), "closed or belongs to another pool"),
        "foreign": (lambda p, s: synthetic_pool(2).begin([s], [1]), "closed or belongs to another pool"),
        "twice": (lambda p, s: p.begin([s, p.open(), s], [1, 1, 1]), "appears twice"),
        "none": (lambda p, s: p.begin([s], [0]), "count of 0 tokens"),
        "negative": (lambda p, s: p.begin([s], [-3]), "count of -3 tokens"),
        "too long": (
            lambda p, s: p.begin([s], [CONFIG.max_position_embeddings]),
            "1505 tokens .* max_position_embeddings = 1500",
        ),
        "fork closed": (lambda p, s: closed(p, s).fork(), "is closed"),
        "rewind closed": (lambda p, s: closed(p, s).rewind(0), "is closed"),
        "close closed": (lambda p, s: closed(p, s).close(), "is closed"),
        "rewind too far": (lambda p, s: s.rewind(6), r"rewind\(6\) .* 0 to 5"),
        "rewind forward": (lambda p, s: s.rewind(-1), r"rewind\(-1\) .* 0 to 5"),
    }


@pytest.mark.parametrize("name", refusals())
def test_refused(name: str) -> None:
    call, message = refusals()[name]
    twins = TwinPool(20)
    twin = twins.open()
    twins.extend([twin], [5])
    with pytest.raises(ValueError, match=message):
        call(twins.pool, twin.sequence)
    twins.pool.check_integrity()
    if not twin.sequence.closed:
        twin.check()
        twins.extend([twin], [3])


def test_no_pool_for_nothing() -> None:
    with pytest.raises(ValueError, match="num_tokens = 0 is not allowed"):
        Pool(CONFIG, 0, plain_records(CONFIG, torch.float32))


def test_the_longest_sequence() -> None:
    twins = TwinPool(12)
    twin = twins.open()
    twins.extend([twin], [CONFIG.max_position_embeddings])
    with pytest.raises(ValueError, match="1501 tokens"):
        twins.pool.begin([twin.sequence], [1])
    twins.rewind(twin, 1)
    twins.extend([twin], [1])
    twin.check()


def test_a_full_pool_changes_nothing() -> None:
    twins = TwinPool(3)
    first, second = twins.open(), twins.open()
    twins.extend([first, second], [100, 100])
    shared = twins.fork(first)
    for sequences, counts in (([first, second], [1, 100]), ([second], [157]), ([shared, second], [1, 29])):
        tables = [list(s.table) for s in twins.pool.sequences]
        with pytest.raises(PoolFull, match="1 of 3 blocks free, 2 more are needed"):
            twins.pool.begin([twin.sequence for twin in sequences], counts)
        assert [list(s.table) for s in twins.pool.sequences] == tables
        twins.check()
        for twin in twins.twins:
            twin.check()
    twins.extend([first], [1])
    twins.check()


def test_both_forks_of_a_partly_filled_block_are_extended_at_once() -> None:
    """One of the two gets a copy, the other keeps the block: a pool with one free block suffices."""
    twins = TwinPool(2)
    first = twins.open()
    twins.extend([first], [57])
    second = twins.fork(first)
    assert first.sequence.table == second.sequence.table
    twins.extend([first, second], [9, 6])
    assert first.sequence.table != second.sequence.table
    assert twins.pool.blocks.references == [1, 1]
    twins.check()
    for twin in twins.twins:
        twin.check()


def test_three_forks_share_full_blocks_and_copy_the_last() -> None:
    twins = TwinPool(8)
    forks = [twins.open()]
    twins.extend(forks, [300])
    forks += [twins.fork(forks[0]), twins.fork(forks[0])]
    twins.extend(forks, [10, 84, 85])
    tables = [fork.sequence.table for fork in forks]
    assert tables[0][:2] == tables[1][:2] == tables[2][:2]
    assert len({table[2] for table in tables}) == 3
    assert [len(table) for table in tables] == [3, 3, 4]
    for fork in forks:
        fork.check()
    twins.close(forks[0])
    twins.check()
    for fork in forks[1:]:
        fork.check()


@pytest.mark.parametrize("length", [3, 16, 17, 130, 140, 144, 256, 300])
def test_rewind_reaches_16_behind_the_furthest(length: int) -> None:
    twins = TwinPool(4)
    twin = twins.open()
    twins.extend([twin], [length])
    reach = min(length, REWIND)
    for num_tokens in range(reach + 1):
        fork = twins.fork(twin)
        twins.rewind(fork, num_tokens)
        twins.check()
        fork.check()
        with pytest.raises(ValueError, match=f"expected 0 to {reach - num_tokens} "):
            fork.sequence.rewind(reach - num_tokens + 1)
        twins.extend([fork], [20])
        fork.check()
        twins.close(fork)
    twins.check()


def test_rewinds_add_up_until_the_sequence_is_past_where_it_was() -> None:
    twins = TwinPool(4)
    twin = twins.open()
    twins.extend([twin], [200])
    for num_tokens, count, left in ((10, 1, 7), (7, 5, 5), (5, 16, 16), (0, 1, 16)):
        twins.rewind(twin, num_tokens)
        twins.extend([twin], [count])
        with pytest.raises(ValueError, match=f"expected 0 to {left} "):
            twin.sequence.rewind(17)
        twin.check()
    fork = twins.fork(twin)
    twins.rewind(fork, 16)
    fork.check()
    twin.check()


def test_cache_bytes() -> None:
    twins = TwinPool(4)
    twin = twins.open()
    twins.extend([twin], [129])
    layout = twins.pool.layout
    fork = twins.fork(twin)
    assert twin.sequence.cache_bytes == fork.sequence.cache_bytes == 2 * layout.block_bytes + layout.state_bytes
    assert twins.pool.num_bytes == 4 * layout.block_bytes + 2 * layout.state_bytes
    twins.close(fork)
    assert twins.pool.num_bytes == 4 * layout.block_bytes + layout.state_bytes


def test_poison_shows_what_was_never_written_and_what_was_freed() -> None:
    twins = TwinPool(2)
    twin = twins.open()
    twins.extend([twin], [130])
    view = PagedView(twin.sequence, 0)
    assert not view.entries("csa", 0, 0, 32).isnan().any()
    assert view.entries("csa", 0, 32, 64).isnan().all()
    assert view.entries("index", 2, 32, 64).isnan().all()
    assert not twin.sequence.state.windows.isnan()[:, :130].any()
    assert twin.sequence.state.windows[:, 130:].isnan().all()
    twins.close(twin)
    assert view.entries("csa", 0, 0, 32).isnan().all()
    assert view.entries("hca", 1, 0, 1).isnan().all()
    assert twin.sequence.state.windows.isnan().all()
    assert all(tail.isnan().all() for tail in twin.sequence.state.tails.values())


@pytest.mark.parametrize("layers", [43, 8])
def test_blocks_begin_at_pages(layers: int) -> None:
    """So that a disk is read straight into them, of few layers too: 64,344 bytes in 65,536."""
    config = ModelConfig.preset("flash")
    ratios = [*config.compress_ratios[:layers], config.compress_ratios[-1]]
    config = config.replace(num_hidden_layers=layers, compress_ratios=tuple(ratios))
    pool = Pool(config, 8192, packed_records(config), poison=True)
    addresses = [torch.frombuffer(pool.block_bytes(block), dtype=torch.uint8).data_ptr() for block in range(8)]
    assert not any(address % 4096 for address in addresses) and len(set(addresses)) == 8
    assert {len(pool.block_bytes(block)) for block in range(8)} == {pool.layout.block_bytes}
    assert bool((pool.storage == 0xFF).all())
