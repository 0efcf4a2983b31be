"""A trace: the ids of the experts that each layer chose for each token, pass by pass. No text and no token ids.

File: safetensors, so that reading executes nothing and every size is checked.

    rows        int32 [passes]                              tokens of each pass
    ids         uint8 or uint16 [tokens, layers, k]         chosen experts, in the router's order
    metadata    format, version, num_experts, expert_bytes
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wavefold.atomic import write_bytes

FORMAT, VERSION = "wavefold-trace", "1"
NUMBERS = ("num_experts", "expert_bytes")


class Asking(NamedTuple):
    """What one layer asks for in one pass: distinct experts, ascending."""

    layer: int
    experts: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """`rows` int32 [passes]: tokens of each pass, at least 1. `ids` [tokens, layers, k]: below `num_experts`.

    `expert_bytes` is the size of the largest expert. Raises ValueError for values that do not fit together.
    """

    rows: np.ndarray
    ids: np.ndarray
    num_experts: int
    expert_bytes: int

    def __post_init__(self) -> None:
        rows, ids = self.rows, self.ids
        if rows.ndim != 1 or rows.dtype != np.int32 or not len(rows) or rows.min() < 1:
            raise ValueError(
                f"rows {rows.dtype} {list(rows.shape)} are not allowed; expected int32 [passes], 1 or more"
            )
        if ids.ndim != 3 or not ids.size or ids.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"ids {ids.dtype} {list(ids.shape)} are not allowed; expected uint8 or uint16 [n, layers, k]"
            )
        if (total := int(rows.sum(dtype=np.int64))) != len(ids):
            raise ValueError(
                f"{total:,} rows in all and ids of {len(ids):,} tokens do not fit; expected the same number"
            )
        if self.expert_bytes < 1:
            raise ValueError(f"expert_bytes = {self.expert_bytes} is not allowed; expected 1 or more")
        if int(ids.max()) >= self.num_experts:
            raise ValueError(f"expert {ids.max()} is not allowed; expected less than num_experts = {self.num_experts}")

    @property
    def num_layers(self) -> int:
        return self.ids.shape[1]

    @property
    def topk(self) -> int:
        """Experts of a token in a layer."""
        return self.ids.shape[2]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @cached_property
    def askings(self) -> list[Asking]:
        """All that is asked for, in the order of passes and layers."""
        passes = np.split(self.ids, np.cumsum(self.rows)[:-1])
        return [
            Asking(layer, tuple(np.unique(chosen[:, layer]).tolist()))
            for chosen in passes
            for layer in range(self.num_layers)
        ]

    def halves(self) -> tuple[list[Asking], list[Asking], int]:
        """Returns what is asked for before and after the middle of the tokens, and the tokens after it.

        A pass is not split. The second part has one pass at least.
        """
        ends = np.cumsum(self.rows)
        before = min(int(np.searchsorted(ends, self.num_tokens / 2)) + 1, len(ends) - 1)
        cut = before * self.num_layers
        return self.askings[:cut], self.askings[cut:], int(self.rows[before:].sum())


def id_dtype(num_experts: int) -> type[np.unsignedinteger]:
    """Returns the dtype of ids below `num_experts`."""
    return np.uint8 if num_experts <= 256 else np.uint16


def write_trace(path: Path, trace: Trace) -> None:
    """Writes the file in one step, readable by its owner alone."""
    arrays = {"rows": np.ascontiguousarray(trace.rows), "ids": np.ascontiguousarray(trace.ids)}
    numbers = {name: str(getattr(trace, name)) for name in NUMBERS}
    write_bytes(path, save(arrays, {"format": FORMAT, "version": VERSION, **numbers}))


def read_trace(path: Path) -> Trace:
    """Returns the trace in a file. Raises ValueError for a file that is none, or whose parts do not fit together."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError("is no trace; expected a file that `wavefold trace` wrote")
            if metadata.get("version") != VERSION:
                raise ValueError(f"has version {metadata.get('version')}; expected {VERSION}")
            if (names := sorted(file.keys())) != ["ids", "rows"]:
                raise ValueError(f"holds {', '.join(names) or 'nothing'}; expected ids and rows")
            rows, ids = file.get_tensor("rows"), file.get_tensor("ids")
        numbers = {name: metadata.get(name, "") for name in NUMBERS}
        for name, text in numbers.items():
            if not (text.isascii() and text.isdecimal() and len(text) < 16):
                raise ValueError(f"{name} = {text[:20]!r} is not allowed; expected a whole number")
        return Trace(rows, ids, **{name: int(text) for name, text in numbers.items()})
    except (SafetensorError, ValueError, TypeError, OSError) as error:  # TypeError: a dtype that numpy has not
        raise ValueError(f"{path}: {error}") from None
