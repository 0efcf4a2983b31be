"""Writes a GGUF file, one tensor's part in memory at a time.

    magic, version, counts | keys: name, kind, value | tensors: name, shape, type, offset | padding | data, each padded

The file appears whole or not at all. Source: the GGUF specification (ggml/docs/gguf.md), version 3, little-endian.
"""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from wavefold.atomic import sweep, write_file
from wavefold.gguf.header import ARRAY, MAGIC, TEXT
from wavefold.gguf.header import DEFAULT_ALIGNMENT as ALIGNMENT
from wavefold.gguf.types import GgmlType

VERSION = 3
KINDS = {"u8": (0, "B"), "i32": (5, "i"), "u32": (4, "I"), "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q")}
"""Kinds of numbers: the number of the kind in a file, and struct's letter."""


class Value(NamedTuple):
    """The value of a key. `kind` is one of KINDS or "string"; a sequence is an array of it."""

    kind: str
    value: object


@dataclass(frozen=True)
class GgufTensor:
    """A tensor to be written. `make` is called once, when its turn comes."""

    shape: tuple[int, ...]
    """In values, the last dimension being that of rows."""
    type: GgmlType
    make: Callable[[], Iterable[Tensor]]
    """Yields uint8 tensors, whose bytes follow each other in the file."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


def write_gguf(
    path: Path,
    keys: Mapping[str, Value],
    tensors: Mapping[str, GgufTensor],
    on_bytes: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Write a file of `keys` and `tensors`, in their orders. `on_bytes(done, of)` reports progress.

    Raises ValueError where the disk is too small, where rows are not whole blocks, and for a folder in the place of the
    file.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; expected the name of a file, such as {path.name}.gguf")
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    total = sum(_padded(tensor.num_bytes) for tensor in tensors.values())
    free = shutil.disk_usage(path.absolute().parent).free
    if total > free:
        raise ValueError(f"{path}: needs {total / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")

    def fill(file: BinaryIO) -> None:
        file.write(header(keys, tensors))
        done = 0
        for name, tensor in tensors.items():
            written = 0
            for part in tensor.make():
                assert part.dtype == torch.uint8, name
                file.write(part.contiguous().flatten().numpy().data)
                written += part.numel()
                on_bytes(done + written, total)
            assert written == tensor.num_bytes, (name, written, tensor.num_bytes)
            file.write(bytes(_padded(written) - written))
            done += _padded(written)

    write_file(path, fill)


def gguf_size(keys: Mapping[str, Value], tensors: Mapping[str, GgufTensor]) -> int:
    """Returns the bytes of the file that `write_gguf` writes."""
    return len(header(keys, tensors)) + sum(_padded(tensor.num_bytes) for tensor in tensors.values())


def header(keys: Mapping[str, Value], tensors: Mapping[str, GgufTensor]) -> bytes:
    """Returns the bytes before the data, padded."""
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(keys))]
    for key, value in keys.items():
        parts += [_string(key), _value(key, value)]
    offset = 0
    for name, tensor in tensors.items():
        parts.append(_string(name) + struct.pack("<I", len(tensor.shape)))
        parts.append(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
        parts.append(struct.pack("<IQ", tensor.type.number, offset))
        offset += _padded(tensor.num_bytes)
    text = b"".join(parts)
    return text + bytes(_padded(len(text)) - len(text))


def _value(key: str, value: Value) -> bytes:
    kind, content = value
    assert kind == "string" or kind in KINDS, key
    number = TEXT if kind == "string" else KINDS[kind][0]
    if isinstance(content, str) or not isinstance(content, Sequence):
        return struct.pack("<I", number) + _content(kind, [content])
    return struct.pack("<IIQ", ARRAY, number, len(content)) + _content(kind, content)


def _content(kind: str, values: Sequence[object]) -> bytes:
    if kind == "string":
        return b"".join(_string(str(value)) for value in values)
    return struct.pack(f"<{len(values)}{KINDS[kind][1]}", *values)


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
