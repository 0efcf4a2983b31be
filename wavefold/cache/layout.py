"""What a sequence's cache consists of, in rows and bytes. Report section 3.5.1.

    block of 128 tokens     32 entries and 32 index keys in each CSA layer, 1 entry in each HCA layer   (paged, grows)
    state                   window ring in each layer, compressor tails                        (fixed, per sequence)

Rings hold the last rows by position (row = position mod size). They are `REWIND` rows longer than what the next token
needs, so that a sequence can step back that far and go on as if the tokens had never been.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from wavefold.cache.record import Record, Records
from wavefold.config import COMPRESSIONS, LayerSpec, ModelConfig

BLOCK_TOKENS = 128
REWIND = 16
FLOAT_BYTES = 4


@dataclass(frozen=True)
class RowKind:
    """A kind of paged row: `rows` stored as `record` for each of `layers` in every block of 128 tokens."""

    name: str
    layers: tuple[int, ...]
    record: Record
    rows: int


@dataclass(frozen=True)
class TailKind:
    """A kind of compressor tail: the last `rows` projections (kv and score, each `width` float32) of `layers`."""

    name: str
    layers: tuple[int, ...]
    width: int
    rows: int


@dataclass(frozen=True)
class CacheLayout:
    """The rows and bytes of a model's cache for one choice of records."""

    config: ModelConfig
    records: Records

    @property
    def main_layers(self) -> range:
        return range(self.config.num_hidden_layers)

    @property
    def row_kinds(self) -> tuple[RowKind, ...]:
        """What a block holds."""
        makers, csa, hca = makers_of(self.config), *COMPRESSIONS
        return (
            RowKind("csa", makers["csa"], self.records.kv, BLOCK_TOKENS // csa.ratio),
            RowKind("index", makers["index"], self.records.index, BLOCK_TOKENS // csa.ratio),
            RowKind("hca", makers["hca"], self.records.kv, BLOCK_TOKENS // hca.ratio),
        )

    @property
    def tail_kinds(self) -> tuple[TailKind, ...]:
        """What a sequence's state holds beside the windows: an overlapped compressor reads two blocks back."""
        config, makers, csa, hca = self.config, makers_of(self.config), *COMPRESSIONS
        return (
            TailKind("csa", makers["csa"], 2 * config.head_dim, 2 * csa.ratio + REWIND),
            TailKind("index", makers["index"], 2 * config.index_head_dim, 2 * csa.ratio + REWIND),
            TailKind("hca", makers["hca"], config.head_dim, hca.ratio + REWIND),
        )

    @property
    def window_rows(self) -> int:
        """Rows of a layer's window ring."""
        return self.config.sliding_window + REWIND

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, all layers."""
        return sum(len(kind.layers) * kind.rows * kind.record.num_bytes for kind in self.row_kinds)

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's fixed state."""
        windows = len(self.main_layers) * self.window_rows * self.records.kv.num_bytes
        tails = sum(len(kind.layers) * kind.rows * 2 * kind.width * FLOAT_BYTES for kind in self.tail_kinds)
        return windows + tails

    def num_blocks(self, num_tokens: int) -> int:
        """Blocks that a sequence of `num_tokens` tokens needs."""
        return -(-num_tokens // BLOCK_TOKENS)

    def bytes_for(self, num_tokens: int) -> int:
        """Bytes of a pool for `num_tokens` tokens, and of the state of one sequence."""
        return self.num_blocks(num_tokens) * self.block_bytes + self.state_bytes


class Rows(NamedTuple):
    """Names a layer's rows in a view: their kind, and the layer that makes them."""

    kind: str
    layer: int


def entries_of(spec: LayerSpec) -> Rows:
    """The entries that a layer attends to."""
    return Rows(spec.part, spec.entries_layer)


def keys_of(spec: LayerSpec) -> Rows:
    """The index keys among which a layer's indexer chooses."""
    return Rows("index", spec.entries_layer)


def makers_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """By kind of row, the layers that make such rows.

    Raises ValueError for a layer whose blocks no kind has.
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
