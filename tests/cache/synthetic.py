"""A cache without a model: rows whose content says which token of which history they belong to.

Every token ever appended gets a number of its own, so the number of a sequence's last token names its whole history.
A `Twin` is a sequence beside the plain list of its numbers; each pass reads back all that the cache can give (window,
tails, entries, index keys) and compares it with what that list says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.cache import BLOCK_TOKENS, REWIND, PagedView, Pool, PoolFull, Sequence, plain_records
from wavefold.config import CSA, HCA, ModelConfig

CONFIG = ModelConfig(
    vocab_size=8, hidden_size=8, num_hidden_layers=3, num_attention_heads=1, head_dim=2, qk_rope_head_dim=2,
    q_lora_rank=8, o_groups=1, o_lora_rank=8, compress_ratios=(CSA, HCA, CSA), index_n_heads=1, index_head_dim=2,
    index_topk=2, n_routed_experts=1, num_experts_per_tok=1, moe_intermediate_size=8, num_hash_layers=0,
    routed_scaling_factor=1.0, num_nextn_predict_layers=0, max_position_embeddings=1500,
)  # fmt: skip

KINDS = {CSA: ("csa", "index"), HCA: ("hca",)}
WIDTHS = {"csa": 4, "index": 4, "hca": 2}
NAMES = [(layer, kind) for layer, ratio in enumerate(CONFIG.compress_ratios) for kind in ("window", *KINDS[ratio])]
PLACES = {name: place for place, name in enumerate(NAMES)}
NUM_PLACES = len(NAMES)


def synthetic_pool(num_blocks: int) -> Pool:
    return Pool(CONFIG, num_blocks * BLOCK_TOKENS, plain_records(CONFIG, torch.float32), poison=True)


def rows_of(numbers: Tensor, *widths: int) -> Tensor:
    """Rows [n, *widths] that say which token they belong to, or which is the last token of their entry."""
    return numbers[(..., *(None,) * len(widths))].expand(-1, *widths)


def check(what: str, got: Tensor, expected: Tensor) -> None:
    assert torch.equal(got, expected), f"{what}: {got.flatten(1)[:, :1].T} is not {expected.flatten(1)[:, :1].T}"


def run_pass(view: PagedView, history: Tensor) -> None:
    """What a model does in a pass: `history` [start + length] are the numbers of the past and the new tokens."""
    start, end = view.start, view.end
    columns = (history[:, None] * NUM_PLACES + torch.arange(NUM_PLACES)).unbind(1)  # no two places hold the same rows
    for layer, ratio in enumerate(CONFIG.compress_ratios):
        column = columns[PLACES[layer, "window"]]
        window = view.window(layer, rows_of(column[start:], 2))
        check(f"window {layer}", window, rows_of(column[max(0, start - 127) :], 2))
        for kind in KINDS[ratio]:
            column, widths = columns[PLACES[layer, kind]], (2, WIDTHS[kind])
            first, complete = start // ratio, end // ratio
            oldest = (first - (ratio == CSA and first > 0)) * ratio
            tail = view.tail(kind, layer, rows_of(column[start:], *widths), oldest)
            check(f"tail {kind} {layer}", tail, rows_of(column[oldest:], *widths))
            entries = rows_of(column[ratio - 1 :: ratio], 2)
            view.append(kind, layer, entries[first:], first)
            if end % 2:
                check(f"entries {kind} {layer}", view.entries(kind, layer, 0, complete), entries)
            else:
                backwards = torch.arange(complete - 1, -1, -1)
                check(f"gather {kind} {layer}", view.gather(kind, layer, backwards[:, None])[:, 0], entries.flip(0))


class Twin:
    """A sequence, and what it must be: the numbers of its tokens, how far it has been, the blocks it holds."""

    def __init__(self, sequence: Sequence, history: Tensor, furthest: int = 0, blocks: tuple[int, ...] = ()):
        self.sequence, self.history, self.furthest, self.blocks = sequence, history, furthest, list(blocks)

    @property
    def num_tokens(self) -> int:
        return len(self.history)

    def check(self) -> None:
        """Read everything, without a new token."""
        assert self.sequence.num_tokens == self.num_tokens
        run_pass(PagedView(self.sequence, 0), self.history)


class TwinPool:
    """A poisoned pool and its twins. Every operation checks the pool against the plain model, errors included."""

    def __init__(self, num_blocks: int):
        self.pool = synthetic_pool(num_blocks)
        self.twins: list[Twin] = []
        self._num_tokens = self._num_blocks = 0

    def check(self) -> None:
        self.pool.check_integrity()
        held = {block for twin in self.twins for block in twin.blocks}
        assert self.pool.blocks.num_free == self.pool.blocks.num_blocks - len(held)
        assert len(self.pool.sequences) == len(self.twins)

    def open(self) -> Twin:
        self.twins.append(Twin(self.pool.open(), torch.empty(0)))
        return self.twins[-1]

    def fork(self, twin: Twin) -> Twin:
        other = Twin(twin.sequence.fork(), twin.history, twin.furthest, tuple(twin.blocks))
        self.twins.append(other)
        return other

    def close(self, twin: Twin) -> None:
        twin.sequence.close()
        self.twins.remove(twin)

    def rewind(self, twin: Twin, num_tokens: int) -> None:
        kept = twin.num_tokens - num_tokens
        if kept < 0 or kept < twin.furthest - REWIND:
            refused(lambda: twin.sequence.rewind(num_tokens), ValueError)
            return
        twin.sequence.rewind(num_tokens)
        twin.history = twin.history[:kept]
        del twin.blocks[-(-kept // BLOCK_TOKENS) :]

    def extend(self, twins: list[Twin], counts: list[int], complete: bool = True) -> None:
        """One pass; `complete`: it is committed, else aborted."""
        sequences = [twin.sequence for twin in twins]
        limit = CONFIG.max_position_embeddings
        if any(twin.num_tokens + count > limit for twin, count in zip(twins, counts, strict=True)):
            refused(lambda: self.pool.begin(sequences, counts), ValueError)
            return
        tables = self._tables_after(twins, counts)
        after = {id(twin): table for twin, table in zip(twins, tables, strict=True)}
        if len({b for t in self.twins for b in after.get(id(t), t.blocks)}) > self.pool.blocks.num_blocks:
            before = [list(s.table) for s in self.pool.sequences], self.pool.blocks.num_free
            refused(lambda: self.pool.begin(sequences, counts), PoolFull)
            assert before == ([list(s.table) for s in self.pool.sequences], self.pool.blocks.num_free)
            return
        views = self.pool.begin(sequences, counts)
        for view, twin, table in zip(views, twins, tables, strict=True):
            history = torch.cat((twin.history, self._new_numbers(view.length)))
            run_pass(view, history)
            if complete:
                twin.history, twin.furthest = history, max(twin.furthest, len(history))
            twin.blocks = table[: -(-twin.num_tokens // BLOCK_TOKENS)]
        (self.pool.commit if complete else self.pool.abort)(views)

    def _tables_after(self, twins: list[Twin], counts: list[int]) -> list[list[int]]:
        """Each twin's blocks after the pass: a partly filled block that another holds too is replaced by a new one."""
        tables = {id(twin): list(twin.blocks) for twin in self.twins}
        for twin, count in zip(twins, counts, strict=True):
            table = tables.pop(id(twin))
            if twin.num_tokens % BLOCK_TOKENS and any(table[-1] in other for other in tables.values()):
                table[-1] = self._new_block()
            table += [self._new_block() for _ in range(-(-(twin.num_tokens + count) // BLOCK_TOKENS) - len(table))]
            tables[id(twin)] = table
        return [tables[id(twin)] for twin in twins]

    def _new_block(self) -> int:
        self._num_blocks += 1
        return self._num_blocks

    def _new_numbers(self, count: int) -> Tensor:
        self._num_tokens += count
        return torch.arange(self._num_tokens - count, self._num_tokens, dtype=torch.float32)


def refused(call, error: type[Exception]) -> None:  # type: ignore[no-untyped-def]
    """`call` raises exactly `error`."""
    try:
        call()
    except Exception as raised:
        assert type(raised) is error, repr(raised)
    else:
        raise AssertionError(f"no {error.__name__}")
