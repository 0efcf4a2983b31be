"""Predicts what waves save for the experts of a layer over ranks: counts of a random routing, on clocks.

    bytes      the row of a token once to every rank that has an expert for it; a result for each pair back
    seconds    of a wave on a rank: products at the rate of the rank, or reading the experts' weights if that is longer

Routing is drawn at random, so the counts have the imbalance of chance. `hot` adds the imbalance of favoured experts.
Report section 3.1: computing hides communication if the operations per byte of the work reach the ratio of the rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wavefold.config import ModelConfig
from wavefold.waves.routes import Routes
from wavefold.waves.schedule import Waves
from wavefold.waves.simulate import ENOUGH, Link, Load, Outcome, fewest_enough, naive_actions, simulate
from wavefold.waves.wire import Wire, row_bytes

WEIGHT_BYTES = {"fp4": 0.5 + 1 / 32, "fp8": 1 + 1 / 128**2, "bf16": 2.0, "fp32": 4.0}
"""Bytes of one weight of a routed expert, scales included, by format."""


@dataclass(frozen=True)
class Machine:
    """Rates of a rank: operations per second in products, bytes per second from memory, fixed seconds of a wave."""

    flops: float
    memory_bytes_per_s: float
    overhead_s: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """Times of one layer's experts, with `tokens` tokens on each rank. Bytes are those of the rank that sends most."""

    tokens: int
    waves: Waves
    seconds: float
    naive_s: float
    compute_s: float
    memory_s: float
    link_s: float
    sent_bytes: int
    copies: float
    """Ranks that a row goes to, its source included, over the experts of the token. Below 1, one row serves several
    experts."""
    imbalance: float
    """Pairs of the fullest rank over the mean of all ranks."""
    outcome: Outcome

    @property
    def rho(self) -> float:
        """Seconds of communication over seconds of computing."""
        return self.link_s / self.compute_s

    @property
    def bound_s(self) -> float:
        """Seconds with perfect overlap."""
        return max(self.compute_s, self.link_s)

    @property
    def limit(self) -> str:
        """The bottleneck: "link", "products" or "memory"."""
        if self.link_s > self.compute_s:
            return "link"
        return "memory" if self.memory_s > 0.5 * self.compute_s else "products"

    @property
    def helps(self) -> bool:
        """True if waves save at least a twentieth of the time."""
        return self.seconds < 0.95 * self.naive_s


def predict(
    config: ModelConfig, num_ranks: int, tokens: int, machine: Machine, link: Link, wire: Wire = "fp8",
    back: Wire = "bf16", hot: float = 1.0, counts: Sequence[int] = (), seed: int = 0,
) -> Prediction:  # fmt: skip
    """Returns the prediction for the fewest waves and the smallest ring within half a percent of the best.

    `hot`: the experts of the first rank are chosen this many times as often as others. `counts`: numbers of waves to
    try. Raises ValueError if there are more ranks than experts.
    """
    base = Waves(config.n_routed_experts, num_ranks)
    ids = [_routing(config, base, tokens, hot, seed + rank) for rank in range(num_ranks)]
    tried: dict[int, tuple[Waves, Load, Outcome]] = {}
    for num in counts or _counts(base.most_waves):
        waves = replace(base, num_waves=num)
        load, _ = _load(config, waves, ids, machine, wire, back)
        tried[num] = waves, load, simulate(waves, load, link)
    waves, load, outcome = tried[fewest_enough({num: portion.seconds for num, (_, _, portion) in tried.items()})]
    for ring in range(1, waves.num_waves):
        narrow = replace(waves, ring=ring)
        if (portion := simulate(narrow, load, link)).seconds <= ENOUGH * outcome.seconds:
            waves, outcome = narrow, portion
            break
    one = replace(base, num_waves=1)
    whole, figures = _load(config, one, ids, machine, wire, back)
    return Prediction(
        tokens=tokens, waves=waves, seconds=outcome.seconds, outcome=outcome,
        naive_s=simulate(one, whole, link, naive_actions()).seconds, link_s=figures.sent / link.bytes_per_s,
        compute_s=max(whole.compute[0]), memory_s=figures.memory_s, sent_bytes=figures.sent, copies=figures.copies,
        imbalance=figures.imbalance,
    )  # fmt: skip


def _counts(most: int) -> list[int]:
    """Returns all numbers of waves up to 32, then a few larger ones."""
    return sorted({*range(1, min(most, 32) + 1), *(n for n in (48, 64, 96, 128, most) if n <= most)})


def _routing(config: ModelConfig, waves: Waves, tokens: int, hot: float, seed: int) -> torch.Tensor:
    """Draws experts at random, distinct for each token: [tokens, k]."""
    favour = torch.ones(config.n_routed_experts)
    favour[: waves.experts_of(0).stop] = hot
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(favour.expand(tokens, -1), config.num_experts_per_tok, generator=generator)


@dataclass(frozen=True)
class _Figures:
    sent: int
    copies: float
    imbalance: float
    memory_s: float


def _load(
    config: ModelConfig, waves: Waves, ids: list[torch.Tensor], machine: Machine, wire: Wire, back: Wire
) -> tuple[Load, _Figures]:
    ranks, hidden, inner = range(waves.num_ranks), config.hidden_size, config.moe_intermediate_size
    routes = [Routes(waves, portion) for portion in ids]
    row, result = row_bytes(wire, hidden), row_bytes(back, hidden)
    used = torch.bincount(torch.cat(ids).flatten(), minlength=waves.num_experts).bool()
    weight_s = 3 * hidden * inner * WEIGHT_BYTES[config.expert_dtype] / machine.memory_bytes_per_s
    pairs = [[[portion.pairs[w][r].stop - portion.pairs[w][r].start for r in ranks] for portion in routes]
             for w in range(waves.num_waves)]  # fmt: skip
    compute, memory = [], []
    for w in range(waves.num_waves):
        products = [6 * sum(pairs[w][s][r] for s in ranks) * hidden * inner / machine.flops for r in ranks]
        experts = [waves.experts(r, w) for r in ranks]
        reads = [int(used[portion.start : portion.stop].sum()) * weight_s for portion in experts]
        compute.append([max(*values) + machine.overhead_s for values in zip(products, reads, strict=True)])
        memory.append(reads)
    dispatch = [[[len(routes[s].rows[w][r]) * row for r in ranks] for s in ranks] for w in range(waves.num_waves)]
    combine = [[[pairs[w][r][s] * result for r in ranks] for s in ranks] for w in range(waves.num_waves)]
    both = [*dispatch, *combine]
    sent = [sum(table[s][r] for table in both for r in ranks if r != s) for s in ranks]
    taken = [sum(pairs[w][s][r] for w in range(waves.num_waves) for s in ranks) for r in ranks]
    rows = sum(len(portion.rows[w][r]) for portion in routes for w in range(waves.num_waves) for r in ranks)
    fullest = taken.index(max(taken))
    figures = _Figures(
        max(sent), rows / max(1, sum(taken)), max(taken) * waves.num_ranks / max(1, sum(taken)),
        sum(values[fullest] for values in memory),
    )  # fmt: skip
    return Load(compute, dispatch, combine), figures
