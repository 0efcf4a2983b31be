"""A text's tokens as a chain of keys: a block's key says all that came before it, so that equal keys mean equal rows.

    root  ->  key 0 = SHA-256(root, tokens 0 .. 127)  ->  key 1 = SHA-256(key 0, tokens 128 .. 255)  -> ...

The root is a digest of everything else that decides rows: weights, arithmetic, layout (`engine/prefix_space.py`), and
the adapter, if there is one (`adapter_root`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from wavefold.cache.layout import BLOCK_TOKENS

TOKEN_BYTES = 4
BLOCK_TEXT = BLOCK_TOKENS * TOKEN_BYTES


def adapter_root(root: bytes, digest: bytes) -> bytes:
    """Returns the root of texts that go through an adapter, by its digest. `root`: of those that go through none."""
    return hashlib.sha256(b"adapter" + root + digest).digest()


class Chain:
    """Grows with its text. Tokens are kept as int32, little endian."""

    def __init__(self, root: bytes, tokens: Sequence[int] = ()):
        self.root = root
        self._text = bytearray()
        self._keys: list[bytes] = []
        self.extend(tokens)

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self._text) // TOKEN_BYTES

    def extend(self, tokens: Sequence[int]) -> None:
        self._text += np.asarray(tokens, "<i4").tobytes()
        while len(self._text) >= (len(self._keys) + 1) * BLOCK_TEXT:
            parent = self._keys[-1] if self._keys else self.root
            self._keys.append(hashlib.sha256(parent + self.text(len(self._keys))).digest())

    @property
    def keys(self) -> list[bytes]:
        """The keys of all whole blocks."""
        return self._keys

    def text(self, number: int, num_tokens: int = BLOCK_TOKENS) -> bytes:
        """The first `num_tokens` tokens of block `number`, or as many as there are, 4 bytes each."""
        first = number * BLOCK_TEXT
        return bytes(self._text[first : first + num_tokens * TOKEN_BYTES])

    def common(self, other: Chain) -> int:
        """Returns the number of tokens at the beginning that are those of `other`: none under another root."""
        if self.root != other.root:
            return 0
        low, high = 0, min(len(self._keys), len(other._keys))
        while low < high:  # equal keys mean equal texts
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._keys[middle - 1] == other._keys[middle - 1] else (low, middle - 1)
        return low * BLOCK_TOKENS + common_tokens(self.text(low), other.text(low))


def common_tokens(text: bytes, other: bytes) -> int:
    """Returns the number of tokens with which both texts begin."""
    count = min(len(text), len(other)) // TOKEN_BYTES
    differ = np.flatnonzero(np.frombuffer(text, "<i4", count) != np.frombuffer(other, "<i4", count))
    return int(differ[0]) if len(differ) else count
