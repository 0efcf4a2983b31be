"""Experts of a layer over ranks, in waves, forward and backward: the program of a rank, by `Waves.actions`.

    forward     rows of h go out                   experts compute     a result for each pair comes back
    backward    rows of the output's gradient      gradients           h's gradient for each pair; meanwhile weights'

The rank that asked sums results in float32, in the order of the slots of a token. An expert sees the rows of all ranks
at once, in the order of ranks and tokens. So numbers depend neither on the number of ranks nor on the waves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wavefold.waves import wire as wires
from wavefold.waves.routes import Routes, rows_by_wave
from wavefold.waves.schedule import Kind, Waves
from wavefold.waves.transport import Message, Program, Transport
from wavefold.waves.wire import Wire

CACHED_ROWS = 64
"""Rows that are summed at a time, so that their sums stay in the CPU cache."""


@dataclass(frozen=True)
class Settings:
    """Formats in which tokens travel. `wire`: rows to experts. `back`: results, and all gradients."""

    waves: Waves
    wire: Wire = "fp32"
    back: Wire = "fp32"

    def __post_init__(self) -> None:
        wires.check_wire(self.wire)
        wires.check_wire(self.back, ("bf16", "fp32"))


@dataclass
class Received:
    """Requests of all ranks to this one, by source rank. The forward pass keeps them for the backward pass."""

    counts: list[list[int]]
    """Number of pairs for each local expert."""
    refs: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    """Number of new rows in each wave."""

    def __post_init__(self) -> None:
        self.firsts = [[0, *itertools.accumulate(counts)] for counts in self.counts]
        """First pair of each expert, then the end of the last one."""


def ask(transport: Transport, settings: Settings, routes: Routes, weights: Tensor) -> Program[Received]:
    """Tells every rank which pairs will come to it, and receives the same from all. weights [n, k] float32."""
    waves, me = settings.waves, transport.rank
    local = waves.experts_of(me)
    counts_out = [torch.tensor(counts) for counts in routes.counts]
    counts_in = [torch.zeros(len(local), dtype=torch.int64) for _ in range(waves.num_ranks)]
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
        firsts = received.firsts[source]
        bounds = [firsts[waves.experts(me, wave).stop - local.start] for wave in range(waves.num_waves)]
        pairs = [end - begin for begin, end in zip([0, *bounds], bounds, strict=False)]
        received.rows.append(rows_by_wave(received.refs[-1], pairs))
    return received


def known(settings: Settings, rank: int, routes: Sequence[Routes], weights: Sequence[Tensor]) -> Received:
    """Returns the result of `ask` without a message, from the routes and weights of all ranks, by source rank."""
    received = Received([portion.counts[rank] for portion in routes])
    for portion, values in zip(routes, weights, strict=True):
        received.refs.append(portion.refs[rank])
        flat = values.detach().float().flatten().cpu()[portion.order]
        received.weights.append(portion.of_rank(rank, flat)[:, None])
        received.rows.append([len(portion.rows[wave][rank]) for wave in range(settings.waves.num_waves)])
    return received


class Exchange:
    """One execution of the waves of a layer on this rank: rows go to the experts, a result comes back for each pair.

    `compute(wave, arrived)` gets the rows that have arrived so far from each rank [rows, hidden]. It returns the
    results for each rank [pairs of the wave, hidden + extra]. The `extra` columns travel as float32. `after` is called
    once all results are under way.
    """

    def __init__(
        self, transport: Transport, settings: Settings, routes: Routes, received: Received, rows: Tensor, there: Wire,
        compute: Callable[[int, list[Tensor]], list[Tensor]], extra: int = 0, after: Callable[[], None] = lambda: None,
        here: Sequence[Tensor] | None = None,
    ):  # fmt: skip
        """rows [n, hidden] travel in the format `there`. `here`: the rows of each rank, if they need not travel."""
        self.transport, self.settings, self.routes, self.received = transport, settings, routes, received
        self.rows, self.there, self.compute, self.extra, self.after = rows, there, compute, extra, after
        self.travels, self.dim = here is None, rows.shape[1]
        self.others = [rank for rank in range(transport.size) if rank != transport.rank]
        if here is None:
            self.arrived = [rows.new_empty(sum(counts), self.dim) for counts in received.rows]
        else:
            self.arrived = [self._decoded(wires.encode(portion, there)) for portion in here]
        self.bounds = [[0, *itertools.accumulate(counts)] for counts in received.rows]
        width = wires.row_bytes(settings.back, self.dim) + 4 * extra
        self.results = torch.empty(len(routes.order), width, dtype=torch.uint8)
        self.coming: dict[int, dict[int, tuple[Tensor, Message]]] = {}
        self.unsent: dict[int, Tensor] = {}
        self.returning: dict[int, list[Message]] = {}
        self.sent: list[Message] = []

    def run(self) -> Program[tuple[Tensor, Tensor]]:
        """Returns the results of the pairs of this rank [pairs, hidden], in their order, and the extra columns."""
        for action in self.settings.waves.actions():
            if action.kind == "dispatch" and not self.travels:
                continue
            yield from getattr(self, f"_{action.verb}_{action.kind}" if action.kind else "_compute")(action.wave) or ()
        yield from self.sent
        width = self.results.shape[1] - 4 * self.extra
        values = self.results[:, :width].contiguous().view(wires.DTYPES[self.settings.back])
        return values, self.results[:, width:].contiguous().view(torch.float32)

    def _expect_dispatch(self, wave: int) -> None:
        self.coming[wave] = {}
        for source in self.others:
            if count := self.received.rows[source][wave]:
                room = torch.empty(count, wires.row_bytes(self.there, self.dim), dtype=torch.uint8)
                self.coming[wave][source] = room, self.transport.receive(source, room, _tag(wave, "dispatch"))

    def _send_dispatch(self, wave: int) -> None:
        for target, tokens in enumerate(self.routes.rows[wave]):
            message = wires.encode(self.rows[tokens], self.there)
            if target == self.transport.rank:
                self.unsent[wave] = message
            elif len(message):
                self.sent.append(self.transport.send(target, message, _tag(wave, "dispatch")))

    def _wait_dispatch(self, wave: int) -> Iterator[Message]:
        coming = self.coming.pop(wave)
        yield from (message for _, message in coming.values())
        rooms = {source: room for source, (room, _) in coming.items()} | {self.transport.rank: self.unsent.pop(wave)}
        for source, room in rooms.items():
            first, end = self.bounds[source][wave : wave + 2]
            self.arrived[source][first:end] = self._decoded(room)

    def _compute(self, wave: int) -> None:
        ends = (bounds[wave + 1] for bounds in self.bounds)
        self.outputs = self.compute(wave, [rows[:end] for rows, end in zip(self.arrived, ends, strict=True)])

    def _expect_combine(self, wave: int) -> None:
        rooms = [(other, self.results[self.routes.pairs[wave][other]]) for other in self.others]
        self.returning[wave] = [self.transport.receive(other, room, _tag(wave, "combine")) for other, room in rooms
                                if len(room)]  # fmt: skip

    def _send_combine(self, wave: int) -> None:
        for other, outputs in enumerate(self.outputs):
            message = wires.encode(outputs[:, : self.dim], self.settings.back)
            if self.extra:
                message = torch.cat((message, outputs[:, self.dim :].float().contiguous().view(torch.uint8)), -1)
            if other == self.transport.rank:
                self.results[self.routes.pairs[wave][other]] = message
            elif len(message):
                self.sent.append(self.transport.send(other, message, _tag(wave, "combine")))

    def _wait_combine(self, wave: int) -> list[Message]:
        if wave == 0:
            self.after()
        return self.returning.pop(wave)

    def _decoded(self, message: Tensor) -> Tensor:
        return wires.decode(message, self.there, self.dim, self.rows.dtype)


def _tag(wave: int, kind: Kind) -> int:
    return 2 * wave + (kind == "combine")


def gather_rows(transport: Transport, rows: Tensor, counts: Sequence[int]) -> Program[Tensor]:
    """Returns the rows of all ranks on every rank, counts[rank] of them from each, in the order of ranks."""
    parts = [rows if rank == transport.rank else rows.new_empty(n, *rows.shape[1:]) for rank, n in enumerate(counts)]
    yield from _swap(transport, [rows] * transport.size, parts)
    return torch.cat(parts)


def sum_by_slot(results: Tensor, routes: Routes, dtype: torch.dtype) -> Tensor:
    """results [pairs, hidden] -> sums over the slots of a token, in order, in float32: [n, hidden] of `dtype`."""
    out = results.new_empty(len(routes.places), results.shape[1], dtype=dtype)
    for portion, places in zip(out.split(CACHED_ROWS), routes.places.split(CACHED_ROWS), strict=True):
        total = results.new_zeros(portion.shape, dtype=torch.float32)
        for slot in range(routes.num_slots):
            total += results[places[:, slot]]
        portion.copy_(total)
    return out


def _swap(transport: Transport, out: Sequence[Tensor], into: Sequence[Tensor]) -> Program[None]:
    """Sends out[r] to rank r and receives into[r] from it. Empty tensors do not travel."""
    posted = []
    for rank, (local, incoming) in enumerate(zip(out, into, strict=True)):
        if rank == transport.rank:
            if incoming is not local:
                incoming.copy_(local)
            continue
        if incoming.numel():
            posted.append(transport.receive(rank, incoming))
        if local.numel():
            posted.append(transport.send(rank, local.contiguous()))
    yield from posted
