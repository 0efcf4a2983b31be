"""Experts of a layer over ranks, in waves, forward and backward: what each rank does, as a program of `Waves.steps`.

    forward     rows of h go out                   experts compute     a result for each pair comes back
    backward    rows of the output's gradient      gradients           h's gradient for each pair; meanwhile weights'

Results are summed by the rank that asked, in float32, in the order of the token's slots; an expert meets the rows of
all ranks at once, in the order of ranks and tokens. So numbers depend neither on the number of ranks nor on the waves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wavefold.parallel import wire as wires
from wavefold.parallel.routes import Routes, rows_by_wave
from wavefold.parallel.transport import Message, Program, Transport
from wavefold.parallel.waves import Waves
from wavefold.parallel.wire import Wire

ExpertFunction = Callable[[int, Tensor, Tensor], Tensor]
"""(expert, rows [n, hidden], routing weights [n, 1] float32) -> [n, hidden]."""


@dataclass(frozen=True)
class Settings:
    """How a layer's tokens travel. `wire` takes rows to experts, `back` their results and all gradients."""

    waves: Waves
    wire: Wire = "fp32"
    back: Wire = "fp32"

    def __post_init__(self) -> None:
        wires.check_wire(self.wire)
        wires.check_wire(self.back, ("bf16", "fp32"))


@dataclass
class Received:
    """What other ranks asked of this one, by source rank: kept from the forward pass for the backward one."""

    counts: list[list[int]]
    """Pairs of each of this rank's experts."""
    refs: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    """New rows in each wave."""

    def firsts(self, source: int) -> list[int]:
        """Where each expert's pairs begin."""
        return [0, *torch.tensor(self.counts[source]).cumsum(0).tolist()]


def ask(transport: Transport, settings: Settings, routes: Routes, weights: Tensor) -> Program[Received]:
    """Tell every rank which pairs will come to it, and hear what will come here; weights [n, k] float32."""
    waves, me = settings.waves, transport.rank
    mine = waves.experts_of(me)
    counts_out = [torch.tensor(counts) for counts in routes.counts]
    counts_in = [torch.zeros(len(mine), dtype=torch.int64) for _ in range(waves.num_ranks)]
    yield from _swap(transport, counts_out, counts_in)
    received = Received([counts.tolist() for counts in counts_in])
    flat = weights.detach().float().flatten().cpu()[routes.order]
    out = [
        torch.stack((routes.refs[rank].int(), routes.of_rank(rank, flat).view(torch.int32)))
        for rank in range(waves.num_ranks)
    ]
    into = [torch.zeros(2, sum(counts), dtype=torch.int32) for counts in received.counts]
    yield from _swap(transport, out, into)
    for source, asked in enumerate(into):
        received.refs.append(asked[0].long())
        received.weights.append(asked[1].contiguous().view(torch.float32)[:, None])
        firsts = received.firsts(source)
        bounds = [firsts[waves.experts(me, wave).stop - mine.start] for wave in range(waves.num_waves)]
        pairs = [end - begin for begin, end in zip([0, *bounds], bounds, strict=False)]
        received.rows.append(rows_by_wave(received.refs[-1], pairs))
    return received


def known(settings: Settings, rank: int, routes: Sequence[Routes], weights: Sequence[Tensor]) -> Received:
    """What `ask` would hear, where every rank knows what all ask, routes and weights by source rank: no message."""
    received = Received([some.counts[rank] for some in routes])
    for some, values in zip(routes, weights, strict=True):
        received.refs.append(some.refs[rank])
        flat = values.detach().float().flatten().cpu()[some.order]
        received.weights.append(some.of_rank(rank, flat)[:, None])
        received.rows.append([len(some.rows[wave][rank]) for wave in range(settings.waves.num_waves)])
    return received


def run_waves(
    transport: Transport, settings: Settings, routes: Routes, received: Received, rows: Tensor, there: Wire,
    compute: Callable[[int, list[Tensor]], list[Tensor]], extra: int = 0, after: Callable[[], None] | None = None,
    here: Sequence[Tensor] | None = None,
) -> Program[tuple[Tensor, Tensor]]:  # fmt: skip
    """rows [n, hidden] go to the experts in `there`, and what compute makes of each pair comes back.

    `compute(wave, buffers)` is given the rows that came from each rank so far [all, hidden], and returns for each rank
    its pairs' results [pairs of the wave, hidden + extra]; `extra` columns travel as float32. `after` is called once
    all results are on their way. `here`: the rows that would come from each rank, where this one has them already.
    Returns the results of this rank's pairs, in their order [pairs, hidden], and the extra columns.
    """
    waves, me, dim = settings.waves, transport.rank, rows.shape[1]
    ranks = range(waves.num_ranks)
    width, wide = wires.row_bytes(there, dim), wires.row_bytes(settings.back, dim) + 4 * extra
    if here is None:
        arrived = [rows.new_zeros(sum(received.rows[source]), dim) for source in ranks]
    else:
        arrived = [wires.decode(wires.encode(some, there), there, dim, rows.dtype) for some in here]
    bounds = [[0, *torch.tensor(received.rows[source]).cumsum(0).tolist()] for source in ranks]
    coming: dict[int, list[tuple[int, Tensor, Message]]] = {}
    results = torch.zeros(len(routes.order), wide, dtype=torch.uint8)
    returning: dict[int, list[Message]] = {}
    sent: list[Message] = []
    own: dict[int, Tensor] = {}
    for step in waves.steps():
        wave = step.wave
        if step.action == "expect" and step.kind == "combine":
            pairs = [(other, results[routes.pairs[wave][other]]) for other in ranks if other != me]
            returning[wave] = [transport.receive(other, some, 2 * wave + 1) for other, some in pairs if len(some)]
        elif step.kind == "dispatch" and here is not None:
            continue
        elif step.action == "expect":
            rooms = [(source, torch.empty(received.rows[source][wave], width, dtype=torch.uint8)) for source in ranks]
            coming[wave] = [(source, room, transport.receive(source, room, 2 * wave))
                            for source, room in rooms if source != me and len(room)]  # fmt: skip
        elif step.action == "send" and step.kind == "dispatch":
            for target in ranks:
                message = wires.encode(rows[routes.rows[wave][target]], there)
                if target == me:
                    own[wave] = message
                elif len(message):
                    sent.append(transport.send(target, message, 2 * wave))
        elif step.action == "wait" and step.kind == "dispatch":
            yield from (message for _, _, message in coming[wave])
            for source, room in [(me, own.pop(wave)), *((source, room) for source, room, _ in coming.pop(wave))]:
                first, end = bounds[source][wave : wave + 2]
                arrived[source][first:end] = wires.decode(room, there, dim, rows.dtype)
        elif step.action == "compute":
            made = compute(wave, [some[: bounds[source][wave + 1]] for source, some in enumerate(arrived)])
        elif step.action == "send":
            for other, result in enumerate(made):
                message = wires.encode(result[:, :dim], settings.back)
                if extra:
                    message = torch.cat((message, result[:, dim:].float().contiguous().view(torch.uint8)), -1)
                if other == me:
                    results[routes.pairs[wave][me]] = message
                elif len(message):
                    sent.append(transport.send(other, message, 2 * wave + 1))
        else:
            if wave == 0 and after is not None:
                after()
            yield from returning.pop(wave)
    yield from sent
    values = wires.decode(results[:, : wide - 4 * extra].contiguous(), settings.back, dim, torch.float32)
    return values, results[:, wide - 4 * extra :].contiguous().view(torch.float32)


def gather_rows(transport: Transport, rows: Tensor, counts: Sequence[int]) -> Program[Tensor]:
    """Every rank's rows, counts[rank] of them, in the order of ranks, on every rank."""
    parts = [rows if rank == transport.rank else rows.new_empty(n, *rows.shape[1:]) for rank, n in enumerate(counts)]
    yield from _swap(transport, [rows] * transport.size, parts)
    return torch.cat(parts)


def sum_by_slot(results: Tensor, routes: Routes, dtype: torch.dtype) -> Tensor:
    """results [pairs, hidden] float32 -> each token's sum, its slots in order: [n, hidden]."""
    total = results.new_zeros(len(routes.places), results.shape[1])
    for slot in range(routes.num_slots):
        total += results[routes.places[:, slot]]
    return total.to(dtype)


def _swap(transport: Transport, out: Sequence[Tensor], into: Sequence[Tensor]) -> Program[None]:
    """out[r] to rank r, into[r] from it; what is empty does not travel."""
    posted = []
    for rank, (mine, theirs) in enumerate(zip(out, into, strict=True)):
        if rank == transport.rank:
            if theirs is not mine:
                theirs.copy_(mine)
            continue
        if theirs.numel():
            posted.append(transport.receive(rank, theirs))
        if mine.numel():
            posted.append(transport.send(rank, mine.contiguous()))
    yield from posted
