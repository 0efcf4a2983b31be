"""The allocator of block numbers."""

import pytest

from wavefold.cache import BlockAllocator, PoolFull


def test_allocate_and_release() -> None:
    blocks = BlockAllocator(4)
    table = blocks.allocate(3)
    assert len(set(table)) == 3 and set(table) <= set(range(4))
    assert blocks.num_free == 1
    blocks.check_integrity([table])
    assert blocks.release(table[:1]) == table[:1]
    assert blocks.num_free == 2
    blocks.check_integrity([table[1:]])
    blocks.release(table[1:])
    blocks.check_integrity([])


def test_a_shared_block_is_free_after_its_last_holder() -> None:
    blocks = BlockAllocator(2)
    table = blocks.allocate(2)
    blocks.share(table[:1])
    blocks.check_integrity([table, table[:1]])
    assert blocks.release(table) == table[1:]
    assert blocks.release(table[:1]) == table[:1]
    blocks.check_integrity([])


def test_full() -> None:
    blocks = BlockAllocator(3)
    table = blocks.allocate(2)
    with pytest.raises(PoolFull, match="1 of 3 blocks free, 2 more are needed"):
        blocks.allocate(2)
    blocks.check_integrity([table])
    assert blocks.allocate(0) == []
    assert len(blocks.allocate(1)) == 1


def test_what_is_free_can_be_neither_shared_nor_freed() -> None:
    blocks = BlockAllocator(2)
    (block,) = blocks.allocate(1)
    blocks.release([block])
    with pytest.raises(AssertionError, match="freed twice"):
        blocks.release([block])
    with pytest.raises(AssertionError, match="cannot be shared"):
        blocks.share([block])


@pytest.mark.parametrize("wrong", [[], [[0, 1]], [[0], [0]], [[1]]], ids=str)
def test_integrity_sees_any_other_tables(wrong: list[list[int]]) -> None:
    blocks = BlockAllocator(2)
    assert blocks.allocate(1) == [0]
    blocks.check_integrity([[0]])
    with pytest.raises(AssertionError):
        blocks.check_integrity(wrong)


def test_integrity_sees_a_broken_free_list() -> None:
    blocks = BlockAllocator(2)
    blocks._free.append(0)
    with pytest.raises(AssertionError, match="twice"):
        blocks.check_integrity([])
    blocks._free = [0]
    with pytest.raises(AssertionError, match="unused"):
        blocks.check_integrity([])
