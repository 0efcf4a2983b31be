"""`LayerSpec`: derived once from the configuration, read by everything that builds or sizes a layer.

    compress ratio    0 (SWA)    the window alone
                      4 (CSA)    blocks overlap; a query attends to the entries that the indexer chooses
                      128 (HCA)  blocks do not overlap; a query attends to all complete entries

A successor of the architecture adds fields to `LayerSpec`, not branches elsewhere; a third kind of
entry also needs its rows in cache/layout.py. Report section 2.3.
"""

from __future__ import annotations

from typing import NamedTuple

SWA, CSA, HCA = 0, 4, 128

WINDOW_PART = "window"
"""The part of attention's operations over window rows."""


class Compression(NamedTuple):
    """How a layer makes entries from its tokens, and which entries a query attends to.

    `part` names the attention over such entries where operations are counted.
    """

    part: str
    ratio: int
    overlap: bool
    indexed: bool


COMPRESSIONS = Compression("csa", CSA, True, True), Compression("hca", HCA, False, False)
"""The two compressions of DeepSeek-V4."""

_BY_RATIO = {compression.ratio: compression for compression in COMPRESSIONS}


class LayerSpec(NamedTuple):
    """One layer. MTP layers come after the main ones.

    layer       its number
    window      tokens that a query sees through the window, including its own
    ratio       tokens in a block, which becomes one entry; 0 where the layer has no entries
    overlap     True if an entry is made from its block and the block before
    indexed     True if an indexer chooses the entries that a query attends to; False: all complete entries
    hashed      True if the router chooses experts by token id

    DeepSeek-V4's layers leave the rest as it is:

    entries_of  the earlier layer that makes this layer's entries and index keys; None: this layer
    choice_of   the earlier layer that chooses this layer's entries; None: this layer
    late_pre    True if a sublayer mixes the streams by the `pre` of the sublayer before; False: by its own
    """

    layer: int
    window: int
    ratio: int
    overlap: bool
    indexed: bool
    hashed: bool
    entries_of: int | None = None
    choice_of: int | None = None
    late_pre: bool = False

    @property
    def compressed(self) -> bool:
        """True if queries attend to entries."""
        return self.ratio > 0

    @property
    def has_compressor(self) -> bool:
        """True if the layer makes entries."""
        return self.compressed and self.entries_of is None

    @property
    def has_indexer(self) -> bool:
        """True if the layer chooses entries."""
        return self.indexed and self.choice_of is None

    @property
    def has_keys(self) -> bool:
        """True if the layer makes index keys. The layer that makes the entries makes their keys."""
        return self.indexed and self.entries_of is None

    @property
    def entries_layer(self) -> int:
        """The layer whose entries and index keys are read."""
        return self.layer if self.entries_of is None else self.entries_of

    @property
    def alone(self) -> bool:
        """True if the layer needs nothing from another layer, as in DeepSeek-V4."""
        return self.entries_of is None and self.choice_of is None and not self.late_pre

    @property
    def part(self) -> str:
        """The part of attention's operations over this layer's entries; `WINDOW_PART` where it has no entries."""
        if not self.compressed:
            return WINDOW_PART
        return next(c.part for c in COMPRESSIONS if c.indexed == self.indexed)


def layer_specs(compress_ratios: tuple[int, ...], num_hash_layers: int, window: int) -> tuple[LayerSpec, ...]:
    """DeepSeek-V4's layers, one for each compress ratio."""
    specs = []
    for layer, ratio in enumerate(compress_ratios):
        compression = _BY_RATIO.get(ratio)
        overlap, indexed = (compression.overlap, compression.indexed) if compression else (False, False)
        specs.append(LayerSpec(layer, window, ratio, overlap, indexed, hashed=layer < num_hash_layers))
    return tuple(specs)


def check_specs(specs: tuple[LayerSpec, ...]) -> None:
    """Raises ValueError for a layer out of place, and for one that needs rows which no earlier layer makes."""
    for number, spec in enumerate(specs):
        if spec.layer != number:
            raise ValueError(f"layer {spec.layer} at place {number} is not allowed; expected layer {number}")
        if spec.entries_of is not None:
            maker = specs[spec.entries_of] if 0 <= spec.entries_of < number else None
            if maker is None or not maker.has_compressor or _shape(maker) != _shape(spec):
                raise ValueError(
                    f"layer {number}: entries_of = {spec.entries_of} is not allowed; expected an earlier layer with "
                    f"a compressor of ratio {spec.ratio} and indexed = {spec.indexed}"
                )
        if spec.choice_of is not None:
            chooser = specs[spec.choice_of] if 0 <= spec.choice_of < number else None
            if chooser is None or not chooser.has_indexer or chooser.entries_layer != spec.entries_layer:
                raise ValueError(
                    f"layer {number}: choice_of = {spec.choice_of} is not allowed; expected an earlier layer with an "
                    f"indexer that chooses among the entries of layer {spec.entries_layer}"
                )
    if len({spec.late_pre for spec in specs}) > 1:
        raise ValueError("late_pre in some layers alone is not allowed; expected it in all or in none")


def _shape(spec: LayerSpec) -> tuple[int, bool, bool]:
    return spec.ratio, spec.overlap, spec.indexed
