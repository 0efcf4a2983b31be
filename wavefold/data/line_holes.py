"""Where a hole lies that an editor asks for: a line, its end, or a part of it.

def area(width, height):          begin    the first sign of the line, or a place in it
    return width * height         end      a place in it, its end, or the first sign of the next line
       ^^^^^^^^^^^^
"""

from __future__ import annotations

import re

import numpy as np

SIGNS = re.compile(r"[^\S\n]*(\S[^\n]*)")
"""A line with something in it: group 1 begins at its first sign."""
BORDERS = re.compile(r"\b")
UNKNOWN = "\ufffd"
"""What stands for bytes that are no character: a span of tokens may begin or end within one."""
ANYWHERE = 0.25
"""Share of places that lie between any two characters. The others are the ends of words."""


def line_hole(text: str, rng: np.random.Generator) -> tuple[int, int] | None:
    """Returns where a hole begins and ends, in characters. None: the text has no line to choose, or broken characters.

    The first and the last line are not chosen: a span of a document may begin and end within them.
    """
    lines = [match.span(1) for match in SIGNS.finditer(text)]
    if len(lines) < 3 or UNKNOWN in text:
        return None
    number = int(rng.integers(1, len(lines) - 1))
    (first, last), following = lines[number], lines[number + 1][0]
    begin = first if rng.random() < 0.5 else _place(text, first, last - 1, rng)
    ends = _place(text, begin + 1, last, rng), last, following
    return begin, ends[int(rng.integers(len(ends)))]


def _place(text: str, first: int, last: int, rng: np.random.Generator) -> int:
    """Returns a place from `first` to `last`, both included."""
    borders = [match.start() for match in BORDERS.finditer(text, first, last + 1) if first <= match.start() <= last]
    if borders and rng.random() >= ANYWHERE:
        return borders[int(rng.integers(len(borders)))]
    return int(rng.integers(first, last + 1))
