"""Tasks of the fused kernel. A task is a row of integers, and the kernel knows nothing else.

    pull      tokens' rows from a peer, into this rank's stage
    inner     128 columns of both first products for a tile of an expert's rows, their SwiGLU, in FP8
    outer     128 columns of the second product for a tile
    fetch     results from a peer, each to its token and slot
    add       the results of a token, in the order of slots

A task waits until each flag of two ranges has at least the value in `need`. It does its work, then adds one to a flag.
The task that fills that flag may tell all ranks: it writes `value` to their flag `told`. Flags only grow.
"""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    PULL = 0
    INNER = 1
    OUTER = 2
    FETCH = 3
    ADD = 4
    READY = 5
    """A signal only: the tokens of this rank are laid out."""


class Column(IntEnum):
    KIND = 0
    FIRST = 1
    """The first row, pair or token."""
    COUNT = 2
    """Number of rows, pairs or tokens."""
    COLUMN = 3
    """Index of the 128 columns."""
    EXPERT = 4
    """Number of the expert on this rank."""
    PEER = 5
    WAIT = 6
    WAIT_END = 7
    ALSO = 8
    ALSO_END = 9
    DONE = 10
    TOLD = 11
    """-1: tells nobody."""
    VALUE = 12
    WAVE = 13
    """Not read by the kernel: for readers of the schedule."""


WIDTH = 16
"""Integers in a task: 64 bytes."""
BLOCK = 128
"""Columns of a tile, and values of a row that share an activation scale."""
CHUNK = 16
"""Largest number of rows of a pull, pairs of a fetch, tokens of an addition."""
