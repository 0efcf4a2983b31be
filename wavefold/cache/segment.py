"""Segment files: the bytes of the prefix cache on disk. docs/prefix_disk.md has them as a table.

    segment    header, one page of 4096 bytes | slot | slot | ...        slots of one size, one record each
    slot       payload | zeros | footer of 160 bytes                     a multiple of 4096 bytes

A segment has records of one kind and of one space. The footer lies behind its payload: a write that was cut off has
none. It has two checksums, XXH3 of 128 bits: one of the whole slot before it, one of itself. So an index is made from
footers alone, and a payload is trusted only after it has been read whole. All numbers are little-endian.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import xxhash

from wavefold.system.reading import ALIGNMENT

VERSION = 1
PAGE = ALIGNMENT
KEY_BYTES = DIGEST_BYTES = 32
CHECK_BYTES = 16
BLOCK, STATE = 0, 1
KINDS = ("block", "state")
MOST_ABOUT = 1024
"""Bytes of a header's description at most."""
LARGEST = 1 << 40
"""Bytes of a payload at most. A header that says more is not one."""

_HEADER_MAGIC, _FOOTER_MAGIC = b"WFPREFIX", b"WFRECORD"
_HEADER = struct.Struct("<8sIIQQI32s")
_FOOTER = struct.Struct("<8sIIQQ32s32s32s")
FOOTER_BYTES = _FOOTER.size + 2 * CHECK_BYTES
assert FOOTER_BYTES == 160


class Newer(Exception):
    """A segment of a format version that this code does not know."""


class NotOurs(Exception):
    """Bytes that are no header of a segment, or a damaged one."""


@dataclass(frozen=True)
class Header:
    """What a segment's first page says. `space`: 32 bytes; `length`: bytes of a payload; `capacity`: slots at most."""

    kind: int
    length: int
    capacity: int
    space: bytes
    about: str

    @functools.cached_property
    def slot_bytes(self) -> int:
        """Bytes from one record to the next."""
        return -(-(self.length + FOOTER_BYTES) // PAGE) * PAGE

    @property
    def whole_bytes(self) -> int:
        """Bytes of a payload in whole pages: the rest of them shares the last pages with the footer."""
        return self.length // PAGE * PAGE

    def offset(self, number: int) -> int:
        """The first byte of a slot in the file."""
        return PAGE + number * self.slot_bytes

    def num_slots(self, file_bytes: int) -> int:
        """Slots that a file of so many bytes covers."""
        return min(max(file_bytes - PAGE, 0) // self.slot_bytes, self.capacity)

    def pack(self) -> bytes:
        """Returns the page."""
        about = self.about.encode()[:MOST_ABOUT]
        fields = _HEADER.pack(
            _HEADER_MAGIC, VERSION, self.kind, self.length, self.capacity, len(about), self.space
        )  # fmt: skip
        page = (fields + about).ljust(PAGE - CHECK_BYTES, b"\0")
        return page + xxhash.xxh3_128_digest(page)

    @classmethod
    def unpack(cls, page: bytes) -> Header:
        """Raises Newer, or NotOurs."""
        if len(page) < PAGE or not page.startswith(_HEADER_MAGIC):
            raise NotOurs
        _, version, kind, length, capacity, num_about, space = _HEADER.unpack_from(page)
        if version > VERSION:
            raise Newer
        checked, check = page[: PAGE - CHECK_BYTES], page[PAGE - CHECK_BYTES : PAGE]
        if xxhash.xxh3_128_digest(checked) != check or version != VERSION or kind >= len(KINDS):
            raise NotOurs
        if not (0 <= length <= LARGEST and 0 < capacity <= LARGEST and num_about <= MOST_ABOUT):
            raise NotOurs
        about = page[_HEADER.size : _HEADER.size + num_about].decode(errors="replace")
        return cls(kind, length, capacity, space, about)


class Footer(NamedTuple):
    """What a slot says of its payload. `check`: the checksum of all that is before it in the slot."""

    key: bytes
    parent: bytes
    check: bytes


def seal(header: Header, number: int, key: bytes, parent: bytes, slot: memoryview) -> None:
    """Writes the footer into a slot that holds the payload, then zeros."""
    end = header.slot_bytes - FOOTER_BYTES
    fields = _FOOTER.pack(
        _FOOTER_MAGIC, VERSION, header.kind, header.length, number, header.space, key, parent
    )  # fmt: skip
    slot[end : end + len(fields)] = fields
    check = xxhash.xxh3_128_digest(slot[: end + len(fields)])
    slot[end + len(fields) :] = check + xxhash.xxh3_128_digest(fields + check)


def footer_of(header: Header, number: int, data: bytes | memoryview) -> Footer | None:
    """Returns what the last 160 bytes of slot `number` say, or None where they are not this segment's footer."""
    if len(data) != FOOTER_BYTES:
        return None
    data = bytes(data)
    if xxhash.xxh3_128_digest(data[:-CHECK_BYTES]) != data[-CHECK_BYTES:]:
        return None
    magic, version, kind, length, at, space, key, parent = _FOOTER.unpack_from(data)
    expected = _FOOTER_MAGIC, VERSION, header.kind, header.length, number, header.space
    if (magic, version, kind, length, at, space) != expected:
        return None
    return Footer(key, parent, data[_FOOTER.size : -CHECK_BYTES])


def is_right(header: Header, number: int, key: bytes, parts: Sequence[memoryview]) -> bool:
    """True if `parts`, one after another, are slot `number` as it was written for `key`. The last holds the footer."""
    last = parts[-1]
    footer = footer_of(header, number, last[-FOOTER_BYTES:])
    if footer is None or footer.key != key:
        return False
    content = xxhash.xxh3_128()
    for part in parts[:-1]:
        content.update(part)
    content.update(last[: -2 * CHECK_BYTES])
    return content.digest() == footer.check
