"""The compressor: `ratio` tokens become one entry. Report section 2.3. Blocks may overlap.

    h --wkv----> kv    \\
    h --wgate--> score  > rows kept by token (the tail) --complete block--> mean -> norm -> RoPE -> entry
           + ape[t % ratio]                                                     (position: the block's first token)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.cache import Rows
from wavefold.config import LayerSpec, ModelConfig
from wavefold.model.batch import Batch, Span, Table
from wavefold.model.parameters import Linear, Norm, empty
from wavefold.ops import Arithmetic


class Compressor(nn.Module):
    """Turns hidden states into entries of width `dim`, and stores them in the view as `rows`.

    With `as_keys` the entries are keys of an indexer; else attention reads them.
    """

    def __init__(self, config: ModelConfig, spec: LayerSpec, dim: int, rows: Rows, as_keys: bool):
        super().__init__()
        self.ratio, self.overlap, self.dim, self.rows, self.as_keys = spec.ratio, spec.overlap, dim, rows, as_keys
        self.rope_dim = config.qk_rope_head_dim
        width = dim * (2 if self.overlap else 1)
        self.wkv = Linear(config.hidden_size, width, "bf16")
        self.wgate = Linear(config.hidden_size, width, "bf16")
        self.ape = empty(self.ratio, width, dtype=torch.float32)
        self.norm = Norm(dim, config.rms_norm_eps)

    def project(self, h: Tensor, batch: Batch, arithmetic: Arithmetic) -> Tensor:
        """h [n, hidden] -> rows [n, 2, width] float32: kv, and score with its positional bias."""
        kv = ops.linear_wide(h, self.wkv.stored, arithmetic)
        score = ops.linear_wide(h, self.wgate.stored, arithmetic)
        score = score + self.ape.to(score.dtype)[batch.positions % self.ratio]
        return torch.stack((kv, score), 1)

    def extend(self, rows: Tensor, span: Span, batch: Batch, arithmetic: Arithmetic) -> None:
        """Takes one sequence's new rows, and stores the entries of the blocks that these rows complete."""
        view, ratio = span.view, self.ratio
        first, end = view.start // ratio, view.end // ratio
        has_previous = self.overlap and first > 0
        tail = view.tail(*self.rows, rows, (first - has_previous) * ratio)
        if end == first:
            if view.start == 0:
                view.append(*self.rows, rows.new_empty(0, self.dim, dtype=arithmetic.dtype), 0)
            return
        complete = tail[: (end - first + has_previous) * ratio]
        entries = ops.compress_blocks(complete[:, 0], complete[:, 1], ratio, self.overlap, has_previous)
        entries = self._stored(entries.to(arithmetic.dtype), batch.entry_table(first, end, ratio), arithmetic)
        view.append(*self.rows, entries, first)

    def compress(self, h: Tensor, batch: Batch, arithmetic: Arithmetic) -> Tensor:
        """`project` and `extend` for whole sequences h [n, hidden] that begin with this pass. Returns their entries."""
        lengths = [span.view.length for span in batch.spans]
        weights = self.wkv.stored, self.wgate.stored, self.ape
        entries = ops.compress(h, *weights, self.ratio, self.overlap, lengths, arithmetic)
        blocks = [length // self.ratio for length in lengths]
        if len(entries):
            entries = self._stored(entries, _joined([batch.entry_table(0, n, self.ratio) for n in blocks]), arithmetic)
        for span, rows in zip(batch.spans, entries.split(blocks), strict=True):
            span.view.append(*self.rows, rows, 0)
        return entries

    def _stored(self, entries: Tensor, table: Table, arithmetic: Arithmetic) -> Tensor:
        """Returns the entries [m, dim] in the form that is stored: normalised, at the table's positions, rounded."""
        entries = self.norm.rotated(entries, table, arithmetic)
        if self.as_keys:
            return ops.index_rotate(entries, arithmetic)
        return ops.kv_sim(entries, self.rope_dim, arithmetic)


def _joined(tables: list[Table]) -> Table:
    cos, sin = zip(*tables, strict=True)
    return torch.cat(cos), torch.cat(sin)
