"""The texts of a card: those that ship, or a user's file or folder; cut into passages at ends of lines, by bytes.

The shipped ones are this project's own: prose (its documents), code, tables, and dialogue written for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

SHIPPED = Path(__file__).parent / "texts"
PASSAGE_BYTES = 12288
"""About 4,000 tokens of a small vocabulary, 3,000 of a large one: beyond the window and the densest entries."""
LEAST_BYTES = 192


class Passage(NamedTuple):
    """A text that a model reads from its beginning. `kind`: the file that it is of."""

    kind: str
    number: int
    text: str

    @property
    def num_bytes(self) -> int:
        return len(self.text.encode())


def load_texts(source: Path | None) -> list[tuple[str, str]]:
    """Returns (kind, text) of the shipped texts (None), a file, or a folder's files in order.

    Raises ValueError for a path without UTF-8 text.
    """
    place = SHIPPED if source is None else source
    if not place.exists():
        raise ValueError(f"{place}: no such file or folder; expected texts in UTF-8")
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    found, problems = [], []
    for path in files:
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path.name}: {error}")
            continue
        if len(text.encode()) >= LEAST_BYTES and "\0" not in text:
            found.append((path.stem if source is None else path.name, text))
    if not found:
        said = f" ({problems[0]})" if problems else ""
        raise ValueError(f"{place}: holds no text of {LEAST_BYTES} bytes or more in UTF-8{said}")
    return found


def passages_of(texts: Sequence[tuple[str, str]], num_bytes: int) -> list[Passage]:
    """Returns passages of about `num_bytes` in all, the same from each text as far as it goes."""
    share = max(LEAST_BYTES, num_bytes // len(texts))
    cut = [list(_cut(kind, text, share)) for kind, text in texts]
    chosen: list[Passage] = []
    left = num_bytes
    for turn in zip_longest(*cut):
        for passage in turn:
            if passage is not None and left > 0:
                chosen.append(passage)
                left -= passage.num_bytes
    return chosen


def _cut(kind: str, text: str, share: int) -> list[Passage]:
    """A text's passages: as long as its share allows, each ending with a line."""
    size = min(PASSAGE_BYTES, share)
    passages: list[Passage] = []
    lines: list[str] = []
    length = 0
    for line in _lines(text, size):
        if length and length + len(line.encode()) > size:
            passages.append(Passage(kind, len(passages), "".join(lines)))
            lines, length = [], 0
        lines.append(line)
        length += len(line.encode())
    if length >= LEAST_BYTES or not passages:
        passages.append(Passage(kind, len(passages), "".join(lines)))
    return passages


def _lines(text: str, size: int) -> Iterator[str]:
    """A text's lines; one of more than `size` characters comes in parts."""
    for line in text.splitlines(keepends=True):
        yield from (line[first : first + size] for first in range(0, len(line), size))


def texts_digest(texts: Sequence[tuple[str, str]]) -> str:
    """SHA-256 of all texts with their kinds."""
    sha = hashlib.sha256()
    for kind, text in texts:
        sha.update(f"{kind}\n{len(text.encode())}\n".encode() + text.encode())
    return sha.hexdigest()
