"""The rows and bytes of a sequence's cache. Report section 3.5.1.

    block of 128 tokens     32 entries and 32 index keys in each CSA layer, 1 entry in each HCA layer   (paged, grows)
    state                   window ring in each layer, compressor tails                        (fixed, per sequence)

A block is one contiguous record: for each kind of row, its layers one after another. A state is one contiguous record
too: the tails, then the windows. Rings hold the last rows by position (row = position mod size). A ring has `REWIND`
rows more than the next token needs, so that a sequence can step back that far and go on as if the tokens had never
been. It has `draft_tokens` further rows, which a short pass writes in place.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

from wavefold.cache.record import Record, Records
from wavefold.config import COMPRESSIONS, LayerSpec, ModelConfig

BLOCK_TOKENS = 128
REWIND = 16
FLOAT_BYTES = 4


ALIGNMENT = 64
"""Alignment of the blocks in a pool, in bytes."""
PAGE = 4096
MOST_PADDING = 1 / 50
"""Blocks begin at a page where this takes at most so much of their bytes: a disk is read straight into them."""


@dataclass(frozen=True)
class RowKind:
    """A kind of paged row: `rows` stored as `record` for each of `layers` in every block of 128 tokens.

    `offset` is the first layer's first byte in a block.
    """

    name: str
    layers: tuple[int, ...]
    record: Record
    rows: int
    offset: int = 0

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's rows in a block."""
        return self.rows * self.record.num_bytes

    def offset_of(self, layer: int) -> int:
        """The first byte of a layer's rows in a block."""
        return self.offset + self.layers.index(layer) * self.layer_bytes


@dataclass(frozen=True)
class TailKind:
    """A kind of compressor tail: the last `rows` projections (kv and score, each `width` float32) of `layers`.

    The compressor reads `reach` rows before a new token.
    """

    name: str
    layers: tuple[int, ...]
    width: int
    reach: int
    rows: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[layers, rows, 2, width]."""
        return len(self.layers), self.rows, 2, self.width


@dataclass(frozen=True)
class CacheLayout:
    """The rows and bytes of a model's cache for one choice of records.

    A pass of at most `draft_tokens` tokens writes its rows into the rings at once. With `mtp`, the MTP layers have
    rings too.
    """

    config: ModelConfig
    records: Records
    draft_tokens: int = 1
    mtp: bool = False

    @functools.cached_property
    def ring_layers(self) -> range:
        """The layers that have a window ring: the main layers, then, with `mtp`, those of the MTP modules."""
        return range(self.config.num_blocks if self.mtp else self.config.num_hidden_layers)

    @functools.cached_property
    def row_kinds(self) -> tuple[RowKind, ...]:
        """The kinds of row in a block. KV rows come first: only other KV rows before them keep them aligned."""
        kv, index = self.records.kv, self.records.index
        makers, csa, hca = makers_of(self.config), *COMPRESSIONS
        kinds, offset = [], 0
        for name, record, ratio in (("csa", kv, csa.ratio), ("hca", kv, hca.ratio), ("index", index, csa.ratio)):
            kinds.append(RowKind(name, makers[name], record, BLOCK_TOKENS // ratio, offset))
            offset += len(makers[name]) * kinds[-1].layer_bytes
        return tuple(kinds)

    @functools.cached_property
    def tail_kinds(self) -> tuple[TailKind, ...]:
        """The tails in a sequence's state. An overlapped compressor reads two blocks back."""
        config, makers, csa, hca = self.config, makers_of(self.config), *COMPRESSIONS
        kinds = (
            ("csa", makers["csa"], 2 * config.head_dim, 2 * csa.ratio - 1),
            ("index", makers["index"], 2 * config.index_head_dim, 2 * csa.ratio - 1),
            ("hca", makers["hca"], config.head_dim, hca.ratio - 1),
        )
        margin = REWIND + self.draft_tokens
        return tuple(TailKind(name, layers, width, reach, reach + margin) for name, layers, width, reach in kinds)

    @functools.cached_property
    def window_rows(self) -> int:
        """Rows of a layer's window ring."""
        return self.config.sliding_window - 1 + REWIND + self.draft_tokens

    def check_in_place(self, num_tokens: int) -> None:
        """Asserts that a pass of `num_tokens` tokens may write its rows into the rings at once.

        It may if it overwrites no row that a reader, or a sequence that steps back by `REWIND`, still needs.
        """
        margin = REWIND + num_tokens
        assert self.window_rows >= self.config.sliding_window - 1 + margin, (self.window_rows, num_tokens)
        assert all(kind.rows >= kind.reach + margin for kind in self.tail_kinds), (self.tail_kinds, num_tokens)

    @functools.cached_property
    def block_bytes(self) -> int:
        """Bytes of one block, all layers."""
        return sum(len(kind.layers) * kind.layer_bytes for kind in self.row_kinds)

    @functools.cached_property
    def block_stride(self) -> int:
        """Bytes from one block of a pool to the next."""
        padding = -self.block_bytes % PAGE
        alignment = PAGE if padding <= MOST_PADDING * self.block_bytes else ALIGNMENT
        return max(-(-self.block_bytes // alignment) * alignment, alignment)

    @functools.cached_property
    def tail_bytes(self) -> int:
        """Bytes of the tails, which come first in a state."""
        return sum(len(kind.layers) * kind.rows * 2 * kind.width * FLOAT_BYTES for kind in self.tail_kinds)

    @functools.cached_property
    def state_bytes(self) -> int:
        """Bytes of one sequence's fixed state."""
        return self.tail_bytes + len(self.ring_layers) * self.window_rows * self.records.kv.num_bytes

    def num_blocks(self, num_tokens: int) -> int:
        """Blocks that a sequence of `num_tokens` tokens needs."""
        return -(-num_tokens // BLOCK_TOKENS)

    def bytes_for(self, num_tokens: int) -> int:
        """Bytes of a pool for `num_tokens` tokens plus the state of one sequence."""
        return self.num_blocks(num_tokens) * self.block_bytes + self.state_bytes


class Rows(NamedTuple):
    """The name of a layer's rows in a view: their kind, and the layer that makes them."""

    kind: str
    layer: int


def entries_of(spec: LayerSpec) -> Rows:
    """The entries that a layer attends to."""
    return Rows(spec.part, spec.entries_layer)


def keys_of(spec: LayerSpec) -> Rows:
    """The index keys among which a layer's indexer chooses."""
    return Rows("index", spec.entries_layer)


def makers_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns, for each kind of row, the layers that make such rows.

    Raises ValueError for a layer whose ratio, overlap and index fit no kind.
    """
    makers: dict[str, list[int]] = {"csa": [], "index": [], "hca": []}
    for spec in config.layers:
        if not spec.has_compressor:
            continue
        allowed = [c.ratio for c in COMPRESSIONS if (c.overlap, c.indexed) == (spec.overlap, spec.indexed)]
        if spec.ratio not in allowed:
            raise ValueError(f"layer {spec.layer}: a cache for {spec} is not there; expected ratio {allowed}")
        makers[entries_of(spec).kind].append(spec.layer)
        if spec.has_keys:
            makers[keys_of(spec).kind].append(spec.layer)
    return {kind: tuple(layers) for kind, layers in makers.items()}
