"""The header of one GGUF file: keys and values, and the places of its tensors. All of it is checked before it is used.

    "GGUF" | version u32 | number of tensors u64 | number of keys u64
    | key, type u32, value ... | name, number of dimensions u32, each u64, type u32, offset u64 ... | padding | data

A text is its length (u64) and its bytes in UTF-8. Integers are little-endian. No count makes memory before the bytes
that it promises are seen to be there, so that no damaged header takes more than the file's own size.
"""

from __future__ import annotations

import codecs
import itertools
import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wavefold.gguf.types import BY_NUMBER, TYPES

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_KEYS, MOST_TENSORS, MOST_TEXTS = 1 << 16, 1 << 20, 1 << 22
MOST_TEXT, MOST_NAME = 1 << 26, 1 << 16
PIECE = 1 << 10
"""Bytes of a text that are decoded at a time. An error of Python's holds several times as many."""
SHOWN = 80
"""Characters of a name in an error: escapes may take four times the name."""
MOST_DIMENSIONS = 4
MOST_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

NUMBERS = {
    0: np.uint8, 1: np.int8, 2: np.uint16, 3: np.int16, 4: np.uint32, 5: np.int32, 6: np.float32, 7: np.bool_,
    10: np.uint64, 11: np.int64, 12: np.float64,
}  # fmt: skip
"""Types of values that are numbers."""
TEXT, ARRAY = 8, 9

OTHER_TYPES = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 15: "Q8_K", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 24: "I8", 25: "I16", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4",
    41: "Q1_0",
}  # fmt: skip


class Place(NamedTuple):
    """The place of a tensor in a file, known without reading it."""

    path: Path
    offset: int
    """Place of the first byte in the file."""
    nbytes: int
    type: str
    shape: tuple[int, ...]
    """Rows first, as numpy counts dimensions. The last one is that of the values in a row."""


class Header(NamedTuple):
    """The keys and tensors of one file."""

    path: Path
    values: dict[str, Any]
    """Numbers, texts, arrays of numbers (numpy) and lists of texts, by key."""
    tensors: dict[str, Place]
    size: int


def read_header(path: Path) -> Header:
    """Returns the header of a file. Raises ValueError that names the file, and the key or tensor that is at fault."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 24:
                raise ValueError(f"{size} bytes; expected a header of 24 at least")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(path, _Cursor(data, size))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except _Unread as error:
        raise ValueError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable GGUF file ({error}); download or copy it again") from None


class _Unread(ValueError):
    """A file that is whole, and of a kind that is not read here."""


class _Cursor:
    """A place in the bytes of a file. Every read is checked against their end."""

    def __init__(self, data: mmap.mmap, size: int):
        self.data, self.size, self.at = data, size, 0
        self.subject = "its header"
        """What is read, for errors."""

    @property
    def left(self) -> int:
        return self.size - self.at

    def take(self, num_bytes: int) -> int:
        """Returns the place of the next bytes, and goes on after them."""
        if num_bytes > self.left:
            raise ValueError(f"{self.subject} needs {num_bytes:,} bytes at byte {self.at:,} of {self.size:,}")
        at, self.at = self.at, self.at + num_bytes
        return at

    def number(self, form: str) -> Any:
        return struct.unpack_from(f"<{form}", self.data, self.take(struct.calcsize(f"<{form}")))[0]

    def text(self, most: int) -> str:
        length = self.number("Q")
        if length > most:
            raise ValueError(f"{self.subject} needs {length:,} bytes at byte {self.at:,}; at most {most:,}")
        at, text = self.take(length), ""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for begin in range(at, at + length, PIECE):  # what is no text is seen before much memory is taken
                end = min(begin + PIECE, at + length)
                text = decoder.decode(self.data[begin:end], end == at + length)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.subject} is no UTF-8 ({error.reason} at byte {begin + error.start:,})") from None
        if length <= PIECE:
            return text
        with memoryview(self.data) as data, data[at : at + length] as whole:
            return str(whole, "utf-8")

    def count(self, most: int, least_bytes: int, things: str) -> int:
        """Returns a number of things that take so many bytes each at least."""
        number = int(self.number("Q"))
        if number > min(most, self.left // least_bytes):
            raise ValueError(f"{self.subject} has {number:,} {things}, with {self.left:,} bytes left; at most {most:,}")
        return number


def _read(path: Path, cursor: _Cursor) -> Header:
    data, size = cursor.data, cursor.size
    if data[:4] != MAGIC:
        raise ValueError(f"it begins with {data[:4]!r}, expected {MAGIC!r}")
    cursor.at = 4
    version = cursor.number("I")
    if version not in VERSIONS:
        big = version >= 1 << 16
        raise _Unread(f"version {version}{', so it is big-endian' if big else ''}; expected 2 or 3, little-endian")
    num_tensors = cursor.count(MOST_TENSORS, 25, "tensors")
    num_keys = cursor.count(MOST_KEYS, 13, "keys")
    values: dict[str, Any] = {}
    for number in range(num_keys):
        cursor.subject = f"the name of key {number}"
        key = cursor.text(MOST_NAME)
        cursor.subject = f"key {key[:SHOWN]!r}"
        if key in values:
            raise ValueError(f"{cursor.subject} is there twice")
        values[key] = _value(cursor, cursor.number("I"))
    found = [_tensor(cursor, number) for number in range(num_tensors)]
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(f"general.alignment = {alignment!r}; expected a power of two from 8 to {MOST_ALIGNMENT:,}")
    start = cursor.at + -cursor.at % alignment
    return Header(path, values, _places(path, found, start, alignment, size), size)


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind == TEXT:
        return cursor.text(MOST_TEXT)
    if kind in NUMBERS:
        return _numbers(cursor, kind, 1)[0].item()
    if kind != ARRAY:
        raise ValueError(f"{cursor.subject} is of type {kind}; expected 0 to 12")
    kind = cursor.number("I")
    if kind == TEXT:
        return [cursor.text(MOST_NAME) for _ in range(cursor.count(MOST_TEXTS, 8, "texts"))]
    if kind not in NUMBERS:
        raise ValueError(f"{cursor.subject} is an array of type {kind}; expected numbers or texts")
    return _numbers(cursor, kind, cursor.count(cursor.size, np.dtype(NUMBERS[kind]).itemsize, "values"))


def _numbers(cursor: _Cursor, kind: int, count: int) -> np.ndarray:
    """Returns a copy of so many numbers. Truth values that are neither 0 nor 1 are refused."""
    dtype = np.dtype(NUMBERS[kind]).newbyteorder("<")
    at = cursor.take(count * dtype.itemsize)
    taken = cursor.data[at : at + count * dtype.itemsize]
    if kind == 7 and taken.strip(b"\x00\x01"):
        raise ValueError(f"{cursor.subject} has a truth value that is neither 0 nor 1")
    return np.frombuffer(taken, dtype)


def _tensor(cursor: _Cursor, number: int) -> tuple[str, tuple[int, ...], int, int]:
    """Returns name, dimensions (the shortest step first), type and offset of the next tensor."""
    cursor.subject = f"the name of tensor {number}"
    name = cursor.text(MOST_NAME)
    cursor.subject = f"tensor {name[:SHOWN]!r}"
    num_dimensions = cursor.number("I")
    if not 1 <= num_dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"{cursor.subject} has {num_dimensions:,} dimensions; expected 1 to {MOST_DIMENSIONS}")
    dimensions = tuple(cursor.number("Q") for _ in range(num_dimensions))
    return name, dimensions, cursor.number("I"), cursor.number("Q")


def _places(
    path: Path, found: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int, size: int
) -> dict[str, Place]:  # fmt: skip
    """Returns the places of tensors by name. They may not overlap, nor leave the file."""
    places: dict[str, Place] = {}
    for name, dimensions, number, offset in found:
        if name in places:
            raise ValueError(f"tensor {name[:SHOWN]!r} is there twice")
        if (form := BY_NUMBER.get(number)) is None:
            named = OTHER_TYPES.get(number, f"of number {number}")
            allowed = ", ".join(name.upper() for name in TYPES)
            raise _Unread(f"tensor {name[:SHOWN]!r} is of type {named}, which is not read; expected one of {allowed}")
        kind, values, block_bytes = form.name.upper(), form.block, form.block_bytes
        if not all(dimensions) or dimensions[0] % values:
            shape = list(reversed(dimensions))
            raise ValueError(
                f"tensor {name[:SHOWN]!r} has shape {shape}; expected rows of whole blocks of {values} {kind} values"
            )
        nbytes = math.prod(dimensions) // values * block_bytes
        if offset % alignment or start + offset + nbytes > size:
            raise ValueError(
                f"tensor {name[:SHOWN]!r} takes {nbytes:,} bytes from byte {start + offset:,} of {size:,}; expected a "
                f"multiple of {alignment} in the data, and its end in the file"
            )
        places[name] = Place(path, start + offset, nbytes, kind, tuple(reversed(dimensions)))
    ordered = sorted(places.items(), key=lambda item: item[1].offset)
    for (first, before), (second, after) in itertools.pairwise(ordered):
        if before.offset + before.nbytes > after.offset:
            raise ValueError(f"tensors {first[:SHOWN]!r} and {second[:SHOWN]!r} overlap")
    return places
