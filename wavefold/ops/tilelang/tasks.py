"""The words of a schedule that the fused kernel carries out: a task is a row of integers, and the kernel knows
nothing else.

    pull      tokens' rows from a peer, into this rank's stage
    inner     128 columns of both first products for a tile of an expert's rows, their SwiGLU, in FP8
    outer     128 columns of the second product for a tile
    fetch     results from a peer, each to its token and slot
    add       tokens' results, in the order of slots

A task waits until each flag of two ranges is at least what it needs, does its work, then adds one to a flag. Who
makes that flag full may tell all ranks: it writes `value` to flag `told` of each. Flags only grow.
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
    """Nothing but a signal: this rank's tokens are there."""


class Column(IntEnum):
    KIND = 0
    FIRST = 1
    """The first row, pair or token."""
    COUNT = 2
    """How many."""
    COLUMN = 3
    """Which 128 columns."""
    EXPERT = 4
    """Its number on this rank."""
    PEER = 5
    WAIT = 6
    WAIT_END = 7
    ALSO = 8
    ALSO_END = 9
    DONE = 10
    TOLD = 11
    """-1: nobody."""
    VALUE = 12
    WAVE = 13
    """For those who read the schedule."""


WIDTH = 16
"""Integers in a task: 64 bytes."""
BLOCK = 128
"""Columns of a tile, and values of a row that an activation's scale is for."""
CHUNK = 16
"""Rows of a pull, pairs of a fetch, tokens of an addition: at most."""
