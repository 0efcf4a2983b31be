"""The prefix cache in memory: blocks and states of texts that were read, for texts that begin like them.

    node        a block of 128 tokens under its key; the pool's block has one share more while the node is here
      node      the blocks that follow it, of one or of several texts
      end       a tip: the state of a sequence that ended in this block or at its end. Sequences are opened at ends

Blocks are small and states are large (Flash: 0.5 and 20.6 MB), so not every node has an end: a text is opened at the
last end that it reaches, and its tokens from there on are run again. An end also serves a text that leaves it up to
`REWIND` tokens before: the sequence steps back.

Room. A block that only nodes hold is as good as a free one: `make_room` gives up what was used longest ago, tails of
chains before their heads. That always suffices. (1) A sequence that holds a node's block holds its parent's, since it
was opened here, or got the nodes' blocks in place of its own in `keep`. So nodes that no sequence holds have no
children that one holds, and each use of a node makes its parents the more recent ones: the least recent node has no
children. (2) Without any nodes the pool is as if there were no cache, and sequences need no more blocks than their
lengths say.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from wavefold.cache.chain import Chain, common_tokens
from wavefold.cache.layout import BLOCK_TOKENS, REWIND
from wavefold.cache.pool import Pool
from wavefold.cache.prefix_nodes import End, Hit, Node
from wavefold.cache.sequence import Sequence
from wavefold.cache.space import Space
from wavefold.cache.state import SequenceState
from wavefold.cache.tip import Tip

MOST_TOPS = 64
"""Roots, of which those without a text are forgotten when there are more."""


class Opened(NamedTuple):
    """A sequence with the first tokens of a text, `on_disk` of them read just now; None if there are none.

    `shared`: with so many tokens the text goes along what is cached, here or on disk.
    """

    sequence: Sequence | None
    on_disk: int
    shared: int


class PrefixCache:
    """Keeps at most `max_states` states, 1 or more, and blocks of `pool` until others need them.

    One thread calls it at a time. `root`: of chains without an adapter. `space`: what outlives the process; None:
    nothing does.
    """

    def __init__(self, pool: Pool, max_states: int, root: bytes = b"", space: Space | None = None):
        self.pool, self.max_states, self.root, self.space = pool, max_states, root, space
        self._tops: dict[bytes, Node] = {}
        """By root: no text goes along one of another root."""
        self._ends: OrderedDict[End, Tip] = OrderedDict()
        """The one used longest ago comes first, here and in `_blocks`. Nodes and ends refer to each other: the states
        are beside them, so that they go with the cache."""
        self._blocks: OrderedDict[Node | End, None] = OrderedDict()
        """All that hold a block."""
        pool.holder = self

    # -- looking up --------------------------------------------------------------------------------------------------

    def find(self, chain: Chain, limit: int) -> Hit:
        """Returns where a text may be opened in memory, with at most `limit` tokens."""
        path = self._path(chain)
        node, rest = path[-1] if path else self._top(chain), chain.text(len(path))
        texts = (*(child.text for child in node.children.values()), *node.ends)
        shared = len(path) * BLOCK_TOKENS + max((common_tokens(text, rest) for text in texts), default=0)
        for depth in range(len(path), -1, -1):
            node, most = path[depth - 1] if depth else self._top(chain), 0
            for end in node.ends.values():
                num_tokens = min(depth * BLOCK_TOKENS + common_tokens(end.text, chain.text(depth)), limit)
                tip = self._ends[end]
                if num_tokens > most and tip.num_tokens - num_tokens <= tip.slack:
                    best, most = end, num_tokens
            if most:
                return Hit(path, best, most, shared)
        return Hit(path, shared=shared)

    def _top(self, chain: Chain) -> Node:
        """The node before all blocks of texts of this root."""
        if (top := self._tops.get(chain.root)) is None:
            if len(self._tops) > MOST_TOPS:
                self._tops = {root: top for root, top in self._tops.items() if top.children or top.ends}
            top = self._tops[chain.root] = Node(chain.root, None, b"", -1)
        return top

    def _path(self, chain: Chain) -> list[Node]:
        path, node = [], self._top(chain)
        for key in chain.keys:
            if (child := node.children.get(key)) is None:
                break
            path.append(child)
            node = child
        return path

    def open(self, chain: Chain, limit: int) -> Opened:
        """Returns a sequence with as many of a text's tokens as are cached, at most `limit`. The caller owns it.

        Blocks that are read from the disk take free blocks of the pool, as many as the text has at most.
        """
        with self._whole():
            return self._open(chain, limit)

    def _open(self, chain: Chain, limit: int) -> Opened:
        hit, on_disk = self.find(chain, limit), 0
        shared = hit.shared
        if self.space is not None:
            states, known = self._on_disk(chain, hit, limit)
            shared = max(shared, known * BLOCK_TOKENS)
            for number in reversed(states):
                missing = number - len(hit.path)
                is_restored = self._restore(chain, number)
                hit = self.find(chain, limit)  # to restore may have taken the room of what was found
                if is_restored:
                    on_disk = max(missing, 0) * BLOCK_TOKENS
                    break
            self.space.touch(chain.keys[: hit.num_tokens // BLOCK_TOKENS])
        if hit.end is None:
            return Opened(None, 0, shared)
        tip = self._ends[hit.end]
        self._touch(hit.end)
        sequence = self.pool.open_at(self._table(hit.path, hit.end, tip), tip)
        if hit.num_tokens < tip.num_tokens:
            sequence.rewind(tip.num_tokens - hit.num_tokens)
        return Opened(sequence, on_disk, shared)

    def copy(self, chain: Chain, limit: int, pool: Pool) -> Sequence | None:
        """Returns a sequence of another pool with a copy of a text's tokens that are cached here, at most `limit`.

        None if there are none. Nothing here changes. The other pool has the same records and draft tokens, and room.
        The sequence has no rows of MTP layers.
        """
        hit = self.find(chain, limit)
        if hit.end is None:
            return None
        tip, sequence = self._ends[hit.end], pool.open()
        table = self._table(hit.path, hit.end, tip)
        sequence.table += pool.blocks.allocate(len(table))
        for block, source in zip(sequence.table, table, strict=True):
            pool.storage[block] = self.pool.storage[source]
        for ring, source_ring in zip(sequence.state.rings(False), tip.state.rings(False), strict=True):
            ring.copy_(source_ring)
        sequence.num_tokens, sequence._high = tip.num_tokens, tip.high
        sequence.rewind(tip.num_tokens - hit.num_tokens)
        return sequence

    @staticmethod
    def _table(path: list[Node], end: End, tip: Tip) -> list[int]:
        """The blocks of a sequence at an end."""
        return [node.block for node in path[: (tip.num_tokens - 1) // BLOCK_TOKENS]] + [end.block]

    # -- keeping -----------------------------------------------------------------------------------------------------

    def keep(self, sequence: Sequence, chain: Chain, tip: Tip) -> None:
        """Keeps blocks of a sequence, and its `tip`, under the first tokens of `chain`, its text.

        Where blocks with the same text are here already, the sequence takes them for its own.
        """
        with self._whole():
            self._keep(sequence, chain, tip)

    def _keep(self, sequence: Sequence, chain: Chain, tip: Tip) -> None:
        number, rest = divmod(tip.num_tokens, BLOCK_TOKENS)
        assert tip.num_tokens <= len(chain), "a state beyond the text that it is kept under"
        node = self._top(chain)
        for place, key in enumerate(chain.keys[:number]):
            child = node.children.get(key)
            if child is None:
                child = self._adopt(node, key, chain.text(place), sequence.table[place])
            elif child.block != sequence.table[place]:
                self.pool.blocks.share([child.block])
                self.pool._free([sequence.table[place]])
                sequence.table[place] = child.block
            node = child
        if rest:
            end = self._put_end(node, chain.text(number, rest), tip, sequence.table[number], None)
        else:
            assert node.parent is not None
            end = self._put_end(node.parent, node.text, tip, node.block, node)
        self._touch(end)
        self._trim()
        if self.space is not None:
            self._store(chain, number, tip if not rest else None)

    def _adopt(self, parent: Node, key: bytes, text: bytes, block: int, is_new: bool = True) -> Node:
        """Adds a node. It takes one share more of its block, or, unless `is_new`, the one that there is."""
        node = parent.children[key] = Node(key, parent, text, block)
        self._blocks[node] = None
        if is_new:
            self.pool.blocks.share([block])
        return node

    def _put_end(self, parent: Node, text: bytes, tip: Tip, block: int, node: Node | None) -> End:
        """Returns the end at this place, with the tip that can step back further if there is one already."""
        end = parent.ends.get(text)
        if end is not None:
            self._ends[end] = max(self._ends[end], tip, key=lambda tip: tip.slack)
            return end
        end = parent.ends[text] = End(parent, text, block, node)
        self._ends[end] = tip
        if node is None:
            self._blocks[end] = None
            self.pool.blocks.share([block])
        return end

    def _touch(self, end: End) -> None:
        """The end is used now, and with it all of its chain, whose head is the last to be given up."""
        self._ends.move_to_end(end)
        if end.node is None:
            self._blocks.move_to_end(end)
        self._touch_chain(end.node or end.parent)

    def _touch_chain(self, node: Node) -> None:
        while node.parent is not None:
            self._blocks.move_to_end(node)
            node = node.parent

    def _trim(self) -> None:
        """Gives up the ends used longest ago, beyond those that may be kept."""
        while len(self._ends) > self.max_states:
            self._drop_end(next(iter(self._ends)))

    # -- giving up ---------------------------------------------------------------------------------------------------

    def make_room(self, is_enough: Callable[[], bool]) -> None:
        """Gives blocks up until `is_enough()`: those that nobody else holds, then those that nobody may write to."""
        self._free(is_enough)
        while self._blocks and not is_enough():
            self._drop(next(iter(self._blocks)))

    def _free(self, is_enough: Callable[[], bool]) -> None:
        """Gives up blocks that nobody else holds, until `is_enough()`."""
        for item in list(self._blocks):
            if is_enough():
                return
            if self.pool.blocks.references[item.block] == 1:
                self._drop(item)

    def forget(self, chain: Chain, first: int) -> None:
        """Gives up all that goes along `chain` for more than `first` tokens: its rows cannot be trusted."""
        path = self._path(chain)[: first // BLOCK_TOKENS + 1]
        if len(path) > first // BLOCK_TOKENS:
            self._drop_tree(path.pop())
        node = path[-1] if path else self._top(chain)
        for end in list(node.ends.values()):
            if common_tokens(end.text, chain.text(len(path))) > first % BLOCK_TOKENS:
                self._drop_end(end)

    def clear(self) -> None:
        """Gives all up, whatever its books say."""
        self._tops.clear()
        self._ends.clear()
        self._blocks.clear()
        self.pool.recount()

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """A block after whose interruption nothing is kept: books that were left half done would lose blocks."""
        try:
            yield
        except BaseException:
            self.clear()
            raise

    def _drop_tree(self, node: Node) -> None:
        nodes = [node]
        for one in nodes:  # grows
            nodes += one.children.values()
        for one in reversed(nodes):
            for end in list(one.ends.values()):
                self._drop_end(end)
            self._drop(one)

    def _drop(self, item: Node | End) -> None:
        if isinstance(item, End):
            self._drop_end(item)
            return
        assert item.parent is not None and not item.children and not item.ends, "a head goes before its tail"
        if (end := item.parent.ends.get(item.text)) is not None:
            self._drop_end(end)
        del item.parent.children[item.key], self._blocks[item]
        self.pool._free([item.block])

    def _drop_end(self, end: End) -> None:
        tip = self._ends.pop(end)
        del end.parent.ends[end.text]
        if end.node is None:
            del self._blocks[end]
            self.pool._free([end.block])
        self.pool.give_back(tip.state)

    # -- what outlives the process -----------------------------------------------------------------------------------

    def _on_disk(self, chain: Chain, hit: Hit, limit: int) -> tuple[list[int], int]:
        """Returns the lengths in blocks, ascending, of beginnings that can be restored and are longer than `hit`.

        And the number of blocks that are known, here or on disk.
        """
        assert self.space is not None
        states, known = [], 0
        for number, (has_block, has_state) in enumerate(self.space.find(chain.keys[: limit // BLOCK_TOKENS])):
            if number >= len(hit.path) and not has_block:
                break
            known = number + 1
            if has_state and known * BLOCK_TOKENS > hit.num_tokens:
                states.append(known)
        return states, known

    def _restore(self, chain: Chain, number: int) -> bool:
        """Reads what is missing of the first `number` blocks and of the state at their end. False if a part is bad."""
        assert self.space is not None
        path, pool = self._path(chain)[:number], self.pool
        shared = [node.block for node in path]
        pool.blocks.share(shared)
        blocks: list[int] = []
        try:
            wanted = number - len(path)
            self._free(lambda: pool.blocks.num_free >= wanted)
            if pool.blocks.num_free < wanted:
                return False
            blocks = pool.blocks.allocate(wanted)
            state = SequenceState(pool.layout, pool.device)
            targets = pool.padded_bytes(blocks)
            keys = chain.keys[len(path) : number]
            if not wanted:  # a block beside the state says that the state is right
                targets, keys = [memoryview(bytearray(pool.layout.block_bytes))], chain.keys[number - 1 : number]
            good = self.space.read(keys, targets, keys[-1], memoryview(state.buffer.numpy()))  # type: ignore[arg-type]
            node = path[-1] if path else self._top(chain)
            for key in keys[: good if wanted else 0]:
                node = self._adopt(node, key, chain.text(len(path)), blocks.pop(0), is_new=False)
                path.append(node)
            self._touch_chain(node)  # a head is more recent than its tail, whatever comes next
            if good < len(keys):
                return False
            assert node.parent is not None
            tip = Tip(number * BLOCK_TOKENS, number * BLOCK_TOKENS + REWIND, range(0), state)
            self._touch(self._put_end(node.parent, node.text, tip, node.block, node))
            self._trim()
            return True
        except BaseException:
            self.space.settle()  # until then the blocks are the reads'
            raise
        finally:
            pool._free(blocks)
            pool._free(shared)

    def _store(self, chain: Chain, number: int, tip: Tip | None) -> None:
        """Writes what the disk lacks of the first `number` blocks, and the state at their end, if `tip` has it."""
        assert self.space is not None
        path = self._path(chain)[:number]
        found = self.space.find([node.key for node in path])
        for node, (has_block, has_state) in zip(path, found, strict=True):
            state = None
            if tip is not None and node is path[-1] and not has_state:
                state = memoryview(tip.state.buffer.numpy())  # type: ignore[arg-type]
            if state is not None or not has_block:
                parent = node.parent
                before = self.root if parent is None or parent.parent is None else parent.key
                self.space.put(node.key, before, None if has_block else self.pool.block_bytes(node.block), state)

    # -- books -------------------------------------------------------------------------------------------------------

    def tables(self) -> Iterator[list[int]]:
        """The blocks that are held."""
        return ([item.block] for item in self._blocks)

    @property
    def num_bytes(self) -> int:
        """Bytes of the states."""
        return sum(tip.state.num_bytes for tip in self._ends.values())
