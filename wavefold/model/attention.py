"""Hybrid attention: one latent key-value head, seen through a window and compressed entries. Report section 2.3.

    h -> wq_a -> q_norm -> wq_b -> q (per-head norm, RoPE)                       window: the last 128 tokens' kv
    h -> wkv -> kv_norm -> RoPE -> kv (both key and value)                       indexed layers: + the chosen entries
    o = attention(q, window + entries, sink), un-rotated -> wo_a (groups) -> wo_b     others: + all complete entries

A query at position t sees window tokens t - 127 .. t and entries i < (t + 1) // ratio: a block becomes visible to the
query on its last token. Shape suffixes: n tokens, H heads, c head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.cache import View, entries_of
from wavefold.config import WINDOW_PART, LayerSpec, ModelConfig
from wavefold.model.attention_train import attend_training
from wavefold.model.batch import Batch, Span, num_visible
from wavefold.model.compressor import Compressor
from wavefold.model.indexer import Indexer, as_mask
from wavefold.model.parameters import Linear, Norm, empty
from wavefold.ops import Arithmetic

QUERY_CHUNK = 128
"""Queries attended at a time. The scores of a chunk against one piece of keys are the largest allocation."""
EXACT_PIECE = 512
"""Shared entries in a piece in exact arithmetic. Released arithmetic rounds by pieces of 64."""
GATHER_PIECE = 64
"""Entries gathered for each query at a time, as in the released code."""
DENSE_ENTRIES = 4
"""Exact arithmetic masks instead of gathering while there are at most this many times `index_topk` entries."""


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, spec: LayerSpec):
        super().__init__()
        self.spec, self.layer, self.entries = spec, spec.layer, entries_of(spec)
        self.shares_choice = any(later.choice_of == spec.layer for later in config.layers)
        self.num_heads, self.head_dim, self.rope_dim = (
            config.num_attention_heads,
            config.head_dim,
            config.qk_rope_head_dim,
        )
        self.num_groups, self.window, self.eps = config.o_groups, spec.window, config.rms_norm_eps
        self.topk = config.index_topk
        heads_dim = self.num_heads * self.head_dim
        self.attn_sink = empty(self.num_heads, dtype=torch.float32)
        self.wq_a = Linear(config.hidden_size, config.q_lora_rank, "fp8")
        self.q_norm = Norm(config.q_lora_rank, self.eps)
        self.wq_b = Linear(config.q_lora_rank, heads_dim, "fp8")
        self.wkv = Linear(config.hidden_size, self.head_dim, "fp8")
        self.kv_norm = Norm(self.head_dim, self.eps)
        self.wo_a = Linear(heads_dim // self.num_groups, self.num_groups * config.o_lora_rank, "fp8")
        self.wo_b = Linear(self.num_groups * config.o_lora_rank, config.hidden_size, "fp8")
        if spec.has_compressor:
            self.compressor = Compressor(config, spec, self.head_dim, self.entries, as_keys=False)
        if spec.has_indexer:
            self.indexer = Indexer(config, spec)

    def forward(self, h: Tensor, batch: Batch, arithmetic: Arithmetic) -> Tensor:
        """h [n, hidden], normalised -> [n, hidden]. The views of the batch take the new tokens' rows."""
        qr, q, kv = self.project(h, batch, arithmetic)
        if batch.training is not None:
            o = attend_training(self, h, qr, q, kv, batch, batch.training, arithmetic)
        else:
            o = self.attend_pieces(h, qr, q, kv, batch, arithmetic)
        o = ops.rotate(o, batch.table(self.spec.compressed), arithmetic, inverse=True)
        out = self.output(o, batch, arithmetic)
        if batch.watcher is not None:
            batch.watcher.attended(self.layer, h, out)
        return out

    def attend_pieces(
        self, h: Tensor, qr: Tensor, q: Tensor, kv: Tensor, batch: Batch, arithmetic: Arithmetic
    ) -> Tensor:  # fmt: skip
        """Returns o [n, H, c]. Queries also see their sequence's past."""
        lengths = [span.view.length for span in batch.spans]
        detached = h.detach(), qr.detach()  # no gradient flows through the indexer
        index: tuple[Tensor, ...] = ()
        rows = key_rows = h[:, :0]
        if self.spec.has_compressor:
            rows = self.compressor.project(h, batch, arithmetic)
        if self.spec.has_keys:
            key_rows = self.indexer.compressor.project(detached[0], batch, arithmetic)
        if self.spec.has_indexer:
            index = self.indexer.queries(*detached, batch, arithmetic)
        outputs: list[Tensor] = []
        parts = (x.split(lengths) for x in (q, kv, rows, key_rows, *index))
        for span, q_part, kv_part, rows_part, key_rows_part, *index_part in zip(batch.spans, *parts, strict=True):
            window = span.view.window(self.layer, kv_part)
            if self.spec.has_keys:
                self.indexer.compressor.extend(key_rows_part, span, batch, arithmetic)
            if self.spec.has_compressor:
                self.compressor.extend(rows_part, span, batch, arithmetic)
            outputs += self.attend(q_part, window, index_part, span, arithmetic)
        return torch.cat(outputs)

    def project(self, h: Tensor, batch: Batch, arithmetic: Arithmetic) -> tuple[Tensor, Tensor, Tensor]:
        """Returns qr [n, q_lora], q [n, H, c] and kv [n, c]. q and kv are rotated to their positions."""
        table = batch.table(self.spec.compressed)
        low, latent = ops.linears(h, (self.wq_a.stored, self.wkv.stored), arithmetic)
        place = f"layers.{self.layer}.attn"
        low, latent = (batch.adapt(f"{place}.{name}", h, y, arithmetic) for name, y in (("wq_a", low), ("wkv", latent)))
        qr = self.q_norm(low, arithmetic)
        heads = self.num_heads, self.head_dim  # nested calls: each step's copy of q is the largest tensor of a pass
        wide = batch.adapt(f"{place}.wq_b", qr, self.wq_b(qr, arithmetic), arithmetic)
        q = ops.rms_norm_rotated(wide.unflatten(-1, heads), None, self.eps, table, arithmetic)
        kv = self.kv_norm.rotated(latent, table, arithmetic)
        return qr, q, ops.kv_sim(kv, self.rope_dim, arithmetic)

    def output(self, o: Tensor, batch: Batch, arithmetic: Arithmetic) -> Tensor:
        """Grouped low-rank output: o [n, H, c] -> [n, hidden]."""
        u = ops.grouped_linear(o.flatten(1), self.wo_a.stored, self.num_groups)
        return batch.adapt(f"layers.{self.layer}.attn.wo_b", u, self.wo_b(u, arithmetic), arithmetic)

    def attend(
        self, q: Tensor, window: Tensor, index: Sequence[Tensor], span: Span, arithmetic: Arithmetic
    ) -> list[Tensor]:
        """Returns o [n, H, c] in chunks for one sequence's queries q [n, H, c] over its window rows and entries.

        The last n window rows are those of the queries. `index` has the indexer's queries and weights for the same
        tokens, in layers with an indexer.
        """
        spec, view = self.spec, span.view
        outputs, first = [], view.start
        for q_chunk, *index_chunk in zip(*(x.split(QUERY_CHUNK) for x in (q, *index)), strict=True):
            chunk = range(first, first + len(q_chunk))
            first += len(q_chunk)
            positions = torch.arange(chunk.start, chunk.stop, device=q.device)
            softmax = ops.RunningSoftmax(q_chunk, arithmetic)
            with ops.part(WINDOW_PART):
                self._add_window(softmax, window, chunk, view, arithmetic)
            if spec.indexed:
                seen = num_visible(positions, spec.ratio)
                chosen = self._choice(index_chunk, chunk, seen, span, arithmetic)
                with ops.part(spec.part):
                    self._add_chosen(softmax, chosen, view, arithmetic)
            elif spec.compressed:
                visible = num_visible(positions, spec.ratio), num_visible(chunk[-1], spec.ratio)
                with ops.part(spec.part):
                    self._add_visible(softmax, *visible, view, arithmetic)
            outputs.append(softmax.finish(self.attn_sink))
        return outputs

    def _choice(
        self, index: Sequence[Tensor], chunk: range, visible: Tensor, span: Span, arithmetic: Arithmetic
    ) -> Tensor:  # fmt: skip
        """Returns entries [n, k] for a chunk's queries: the choice of the indexer, or of an earlier layer."""
        if self.spec.choice_of is not None:
            return span.choices[self.spec.choice_of, chunk.start]
        q, weights = index
        chosen = self.indexer.select(q, weights, visible, span.view, arithmetic)
        if self.shares_choice:
            span.choices[self.layer, chunk.start] = chosen
        return chosen

    def _add_window(
        self,
        softmax: ops.RunningSoftmax,
        window: Tensor,
        chunk: range,
        view: View,
        arithmetic: Arithmetic,
    ) -> None:
        """Adds tokens t - 127 .. t for the query at t. `window` holds positions view.end - len(window) .. view.end."""
        base = view.end - len(window)
        positions = torch.arange(chunk.start, chunk.stop, device=window.device)
        if arithmetic.released:  # slots in the order of the released code: oldest first, 64 at a time
            oldest = (positions - self.window + 1).clamp(min=0)[:, None]
            for slot in range(0, self.window, ops.RELEASED_PIECE):
                tokens = oldest + torch.arange(slot, slot + ops.RELEASED_PIECE, device=positions.device)
                rows = (tokens - base).clamp(max=len(window) - 1)
                softmax.add(window[rows], tokens <= positions[:, None])
        else:  # all tokens of the chunk at once, masked to each query's window
            start = max(chunk.start - self.window + 1, base)
            tokens = torch.arange(start, chunk.stop, device=window.device)
            age = positions[:, None] - tokens
            softmax.add(window[start - base : start - base + len(tokens)], (age >= 0) & (age < self.window))

    def _add_chosen(self, softmax: ops.RunningSoftmax, chosen: Tensor, view: View, arithmetic: Arithmetic) -> None:
        """Adds entries by number: chosen [n, k], best first, -1 for none."""
        num_entries = view.end // self.spec.ratio
        few = num_entries <= DENSE_ENTRIES * self.topk
        if not arithmetic.released and (few or softmax.q.requires_grad):  # all entries, the others masked: no gather
            seen = as_mask(chosen, num_entries)
            for first in range(0, num_entries, EXACT_PIECE):
                end = min(first + EXACT_PIECE, num_entries)
                softmax.add(view.entries(*self.entries, first, end), seen[:, first:end])
            return
        for first in range(0, chosen.shape[1], GATHER_PIECE):
            piece = chosen[:, first : first + GATHER_PIECE]
            softmax.add(view.gather(*self.entries, piece.clamp(min=0)), piece >= 0)

    def _add_visible(
        self, softmax: ops.RunningSoftmax, visible: Tensor, most: int, view: View, arithmetic: Arithmetic
    ) -> None:
        """Adds all entries that are complete at each query: visible [n] of them, `most` at the last query."""
        size = ops.RELEASED_PIECE if arithmetic.released else EXACT_PIECE
        for first in range(0, most, size):
            end = min(first + size, most)
            entries = torch.arange(first, end, device=visible.device)
            softmax.add(view.entries(*self.entries, first, end), entries < visible[:, None])
