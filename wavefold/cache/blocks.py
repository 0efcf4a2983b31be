"""The allocator: blocks are numbers, shared by reference counts; their content lives in the pool's storage."""

from __future__ import annotations

from collections.abc import Iterable


class PoolFull(RuntimeError):
    """The pool has fewer free blocks than a call needs. The call changed nothing."""


class BlockAllocator:
    """Hands out block numbers 0 .. num_blocks - 1, and takes a block back when its last holder releases it."""

    def __init__(self, num_blocks: int):
        self.num_blocks = num_blocks
        self.references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def check_free(self, count: int) -> None:
        """Raises PoolFull when fewer than `count` blocks are free."""
        if count > len(self._free):
            raise PoolFull(
                f"the pool has {len(self._free)} of {self.num_blocks} blocks free, {count} more are needed; "
                "close a sequence or open a pool for more tokens"
            )

    def allocate(self, count: int) -> list[int]:
        """Returns `count` blocks with one holder each. Raises PoolFull, and takes none, when fewer are free."""
        self.check_free(count)
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self.references[block] = 1
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Adds one holder to each of `blocks`."""
        for block in blocks:
            assert self.references[block] > 0, f"block {block} is free and cannot be shared"
            self.references[block] += 1

    def release(self, blocks: Iterable[int]) -> list[int]:
        """Removes one holder from each of `blocks`. Returns the blocks that are free now."""
        freed = []
        for block in blocks:
            assert self.references[block] > 0, f"block {block} is freed twice"
            self.references[block] -= 1
            if self.references[block] == 0:
                self._free.append(block)
                freed.append(block)
        return freed

    def grow(self, num_blocks: int) -> None:
        """Adds free blocks, so that there are `num_blocks`. Those that are in use keep their numbers."""
        assert num_blocks >= self.num_blocks, "a pool does not shrink"
        self._free[:0] = range(num_blocks - 1, self.num_blocks - 1, -1)
        self.references += [0] * (num_blocks - self.num_blocks)
        self.num_blocks = num_blocks

    def recount(self, tables: Iterable[Iterable[int]]) -> None:
        """From now on `tables` are the holders, whatever was before."""
        self.references = [0] * self.num_blocks
        for table in tables:
            for block in table:
                self.references[block] += 1
        self._free = [block for block in range(self.num_blocks - 1, -1, -1) if not self.references[block]]

    def check_integrity(self, tables: Iterable[Iterable[int]]) -> None:
        """Raises AssertionError unless `tables` are exactly the holders and every other block is free once."""
        counts = [0] * self.num_blocks
        for table in tables:
            for block in table:
                counts[block] += 1
        assert counts == self.references, "reference counts differ from the block tables"
        assert len(set(self._free)) == len(self._free), "a block is in the free list twice"
        assert {b for b, count in enumerate(counts) if count == 0} == set(self._free), "free list is not what is unused"
