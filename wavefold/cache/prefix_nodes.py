"""What the prefix cache is made of: blocks under their keys, and places where a text may be opened."""

from __future__ import annotations

from typing import NamedTuple


class Node:
    """A whole block. `text`: its tokens, as in `Chain.text`. `ends`: those in the block after it, by their text."""

    def __init__(self, key: bytes, parent: Node | None, text: bytes, block: int):
        self.key, self.parent, self.text, self.block = key, parent, text, block
        self.children: dict[bytes, Node] = {}
        self.ends: dict[bytes, End] = {}


class End:
    """The place of a tip: after `text`, 1 to 128 tokens that begin where `parent` ends. They lie in `block`.

    `node`: the node of a whole block, which holds it; None where the block is the end's own.
    """

    def __init__(self, parent: Node, text: bytes, block: int, node: Node | None):
        self.parent, self.text, self.block, self.node = parent, text, block, node


class Hit(NamedTuple):
    """Where a text may be opened: with `num_tokens`, at `end` or before it; None for nowhere.

    `path`: the nodes of its whole blocks. `shared`: with so many tokens the text goes along what is cached.
    """

    path: list[Node]
    end: End | None = None
    num_tokens: int = 0
    shared: int = 0
