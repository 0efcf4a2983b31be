"""Routes of rows to ranks, by wave, from the experts that the tokens of a rank chose.

pair    a token and one of its experts, in the order (wave, expert, token), contiguous in a message
row     the vector of a token, sent once to a rank, in the first wave that has an expert for it there

pairs    t0 e1 | t2 e1 | t0 e3 | t1 e3        experts 1 and 3 are on the same rank
rows     t0      t2              t1           sent
refs     0       1       0       2            the row of each pair
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold.waves.schedule import Waves


class Routes:
    """The routes of the tokens of a rank. ids [n, k]: the experts of each token."""

    def __init__(self, waves: Waves, ids: Tensor):
        """Raises ValueError for an expert that does not exist."""
        self.num_slots = ids.shape[1]
        flat = flat_ids(waves, [ids])
        self.order = (waves_of_experts(waves)[flat] * waves.num_experts + flat).argsort(stable=True)
        self.tokens = self.order // self.num_slots
        self.places = torch.empty_like(self.order)
        self.places[self.order] = torch.arange(len(self.order))
        self.places = self.places.view(ids.shape)
        counts = torch.bincount(flat, minlength=waves.num_experts).tolist()
        self.pairs: list[list[slice]] = []
        """Slices of pairs, by wave and target rank."""
        self.counts = [[counts[expert] for expert in waves.experts_of(rank)] for rank in range(waves.num_ranks)]
        first = 0
        for wave in range(waves.num_waves):
            self.pairs.append([])
            for rank in range(waves.num_ranks):
                end = first + sum(counts[expert] for expert in waves.experts(rank, wave))
                self.pairs[-1].append(slice(first, end))
                first = end
        self.rows: list[list[Tensor]] = [[] for _ in range(waves.num_waves)]
        """Tokens whose vectors travel, by wave and target rank."""
        self.refs: list[Tensor] = []
        """Row number of each pair, in order, by target rank."""
        for rank in range(waves.num_ranks):
            tokens = [self.tokens[pairs[rank]] for pairs in self.pairs]
            rows, refs = first_seen(torch.cat(tokens))
            self.refs.append(refs)
            seen = 0
            for wave, count in enumerate(rows_by_wave(refs, [len(portion) for portion in tokens])):
                self.rows[wave].append(rows[seen : seen + count])
                seen += count

    def of_rank(self, rank: int, values: Tensor) -> Tensor:
        """values, one for each pair in order -> the values of the pairs of a rank."""
        return torch.cat([values[pairs[rank]] for pairs in self.pairs])


@functools.cache
def waves_of_experts(waves: Waves) -> Tensor:
    """Returns the wave of each expert. Cached, since every layer asks for it."""
    return torch.tensor([waves.wave_of(expert) for expert in range(waves.num_experts)])


@functools.cache
def ranks_of_experts(waves: Waves) -> Tensor:
    """Returns the rank of each expert."""
    return torch.tensor([waves.rank_of(expert) for expert in range(waves.num_experts)])


def flat_ids(waves: Waves, ids: Sequence[Tensor]) -> Tensor:
    """Several ids [n, k] -> int64 [pairs], concatenated. Raises ValueError for an expert that does not exist."""
    flat = torch.cat([portion.flatten() for portion in ids]).cpu().long()
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < waves.num_experts:
        raise ValueError(f"experts {int(flat.min())} to {int(flat.max())}; expected 0 to {waves.num_experts - 1}")
    return flat


def first_seen(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """tokens -> (unique tokens in the order of first appearance, the index of each token among them)."""
    if not len(tokens):
        return tokens, tokens
    order = tokens.argsort(stable=True)
    ordered = tokens[order]
    begins = torch.cat((torch.ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]))
    group, first = begins.cumsum(0) - 1, order[begins]
    number = torch.empty_like(first)
    number[first.argsort()] = torch.arange(len(first))
    refs = torch.empty_like(tokens)
    refs[order] = number[group]
    return tokens[first.sort().values], refs


def rows_by_wave(refs: Tensor, pairs: Sequence[int]) -> list[int]:
    """refs of pairs, `pairs[w]` of them in wave w -> new rows in each wave. Rows are numbered as they arrive."""
    counts, seen = [], 0
    for portion in refs.split(list(pairs)):
        known = max(seen, int(portion.max()) + 1 if len(portion) else 0)
        counts.append(known - seen)
        seen = known
    return counts
