"""Tables of the fused kernel on one rank: its rows, and its tasks (`ops/tilelang/tasks.py`) in their order.

pairs of all ranks, by expert        row 0   1   2   3 | 4   5   6   7 |      tiles of an expert's rows, the last padded
                                     e0  e0  e0  .   | e1  .   .   .   |
rows that this rank pulls            stage 0 1 2 ...                          each row once, in the order of waves

    links      pull wave 0 | pull wave 1 | fetch wave 0 | pull wave 2 | ...    the order of `Waves.actions`
    computes   inner, outer of wave 0 | inner, outer of wave 1 | ... | add

Flags of a rank: first local ones, reset for each launch, then those that peers write. The latter only grow, from launch
to launch (`epoch` 1, 2, ...). Tables depend on the routing of all ranks, which every rank knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wavefold.ops.tilelang.tasks import BLOCK, CHUNK, WIDTH, Column, Kind
from wavefold.waves.routes import first_seen, flat_ids, ranks_of_experts, waves_of_experts
from wavefold.waves.schedule import Waves


@dataclass(frozen=True)
class Flags:
    """Offsets of the flags: first this rank's, then those that peers write, then one for each tile."""

    num_ranks: int
    num_waves: int

    ticket = 0
    started = 1
    returned = 2
    added = 3

    def arrived(self, wave: int = 0) -> int:
        """Counts the pulls of a wave."""
        return 4 + wave

    def computed(self, wave: int = 0) -> int:
        """Counts the outer tasks of a wave."""
        return 4 + self.num_waves + wave

    @property
    def shared(self) -> int:
        """First flag that peers write."""
        return 4 + 2 * self.num_waves

    def ready(self, rank: int = 0) -> int:
        """Epoch whose tokens `rank` has laid out."""
        return self.shared + rank

    def finished(self, rank: int, wave: int) -> int:
        """Epoch for which `rank` has the results of a wave."""
        return self.shared + self.num_ranks + rank * self.num_waves + wave

    def freed(self, rank: int = 0) -> int:
        """Epoch for which `rank` has fetched all results."""
        return self.shared + self.num_ranks * (1 + self.num_waves) + rank

    def writer(self, flag: int) -> int:
        """Returns the rank that writes `flag`, which peers read."""
        number = flag - self.shared
        if self.num_ranks <= number < self.num_ranks * (1 + self.num_waves):
            return (number - self.num_ranks) // self.num_waves
        return number if number < self.num_ranks else flag - self.freed()

    def activated(self, tile: int = 0) -> int:
        """Counts the inner tasks of a tile."""
        return self.freed(self.num_ranks) + tile


class Pairs:
    """Pairs (token, expert) of all ranks, and the row of each pair on the rank that has the expert."""

    def __init__(self, waves: Waves, ids: Sequence[Tensor], rows: int):
        """ids: [n, slots] of each rank. rows: rows of a tile. Raises ValueError for an expert that does not exist."""
        if len(ids) != waves.num_ranks:
            raise ValueError(f"ids of {len(ids)} ranks are not allowed; expected {waves.num_ranks}")
        self.waves, self.rows, self.slots = waves, rows, ids[0].shape[1]
        flat = flat_ids(waves, ids)
        sizes = torch.tensor([work.numel() for work in ids])
        self.expert = flat
        self.source = torch.arange(waves.num_ranks).repeat_interleave(sizes)
        self.number = torch.arange(len(flat)) - (sizes.cumsum(0) - sizes)[self.source]
        """token * slots + slot, counted on the source rank."""
        self.owner, self.wave_of = ranks_of_experts(waves)[flat], waves_of_experts(waves)
        counts = torch.bincount(flat, minlength=waves.num_experts)
        tiles = (counts + rows - 1) // rows
        spans = [waves.experts_of(rank) for rank in range(waves.num_ranks)]
        self.tiles = [tiles[span.start : span.stop] for span in spans]
        first = torch.cat([work.cumsum(0) - work for work in self.tiles]) * rows
        order = flat.argsort(stable=True)
        self.row = torch.empty_like(flat)
        self.row[order] = torch.arange(len(flat)) + (first - (counts.cumsum(0) - counts))[flat[order]]


@dataclass
class Tables:
    """Tables of one rank. `need`: required value of each flag. `links`, `computes`: tasks [n, 16] int32."""

    rank: int
    epoch: int
    flags: Flags
    need: Tensor
    links: Tensor
    computes: Tensor
    tokens: Tensor
    """[stage] int32: token of each row of the stage, counted on its source rank."""
    place: Tensor
    """[rows] int32: row of the stage for each row of a tile."""
    route: Tensor
    """[rows] float32: routing weight."""
    pairs: Tensor
    """[pairs of this rank, 2] int32: a row of the peer's results, and token * slots + slot."""
    filled: Tensor
    """[rows] bool: False for padding. The kernel computes padding too, from arbitrary bytes; nothing reads it."""
    num_tokens: int


def tables(pairs: Pairs, weights: Sequence[Tensor], rank: int, widths: tuple[int, int], epoch: int = 1) -> Tables:
    """Returns the tables of `rank`.

    weights: routing weights [n, slots] of each rank. widths: hidden and inner, multiples of 128.
    """
    flags = Flags(pairs.waves.num_ranks, pairs.waves.num_waves)
    columns = widths[1] // BLOCK, widths[0] // BLOCK
    stage, returns = _Stage(pairs, weights, rank), _Returns(pairs, rank)
    need = torch.zeros(flags.activated(stage.num_tiles), dtype=torch.int32)
    need[flags.started] = 1
    need[flags.ready() : flags.ready(flags.num_ranks)] = epoch
    need[flags.finished(0, 0) : flags.freed()] = epoch
    need[flags.freed() : flags.freed(flags.num_ranks)] = epoch - 1
    need[flags.activated() :] = columns[0]
    links = _links(pairs.waves, flags, stage, returns, need, rank, epoch)
    computes = _computes(pairs, flags, stage, need, columns, rank, epoch)
    computes.append(_sums(flags, returns, need, pairs.waves.num_waves))
    return Tables(
        rank, epoch, flags, need, torch.cat(links), torch.cat(computes), stage.tokens.int(), stage.place, stage.route,
        returns.rows(pairs), stage.filled, returns.num_tokens,
    )  # fmt: skip


class _Stage:
    """The stage: each row once, ordered by the first wave that needs it, then by source rank."""

    def __init__(self, pairs: Pairs, weights: Sequence[Tensor], rank: int):
        waves = pairs.waves
        experts = waves.experts_of(rank)
        self.expert_of_tile = torch.arange(len(experts)).repeat_interleave(pairs.tiles[rank])
        self.wave_of_tile = pairs.wave_of[experts.start + self.expert_of_tile]
        self.num_tiles = len(self.expert_of_tile)
        order = (pairs.owner == rank).nonzero().squeeze(-1)
        order = order[pairs.row[order].argsort()]
        most = int(pairs.number.max()) // pairs.slots + 1 if len(pairs.number) else 1
        keys, refs = first_seen(pairs.source[order] * most + pairs.number[order] // pairs.slots)
        source, tokens = keys // most, keys % most
        wave = torch.full((len(keys),), waves.num_waves)
        wave.scatter_reduce_(0, refs, pairs.wave_of[pairs.expert[order]], "amin")
        sorted_ = (wave * waves.num_ranks + source).argsort(stable=True)
        position = torch.empty_like(sorted_)
        position[sorted_] = torch.arange(len(sorted_))
        self.source, self.tokens, self.wave = source[sorted_], tokens[sorted_], wave[sorted_]
        num_rows = self.num_tiles * pairs.rows
        self.place, self.route = torch.zeros(num_rows, dtype=torch.int32), torch.zeros(num_rows)
        self.filled = torch.zeros(num_rows, dtype=torch.bool)
        self.filled[pairs.row[order]] = True
        self.place[pairs.row[order]] = position[refs].int()
        self.route[pairs.row[order]] = torch.cat([part.flatten() for part in weights]).float().cpu()[order]


class _Returns:
    """Pairs whose results come back to this rank, ordered by wave and peer."""

    def __init__(self, pairs: Pairs, rank: int):
        sent = (pairs.source == rank).nonzero().squeeze(-1)
        wave = pairs.wave_of[pairs.expert[sent]]
        self.sent = sent[(wave * pairs.waves.num_ranks + pairs.owner[sent]).argsort(stable=True)]
        self.wave, self.owner = pairs.wave_of[pairs.expert[self.sent]], pairs.owner[self.sent]
        self.num_tokens = int((pairs.source == rank).sum()) // pairs.slots

    def rows(self, pairs: Pairs) -> Tensor:
        """[pairs of this rank, 2] int32, as `Tables.pairs`."""
        return torch.stack((pairs.row[self.sent], pairs.number[self.sent]), -1).int()


def _links(
    waves: Waves, flags: Flags, stage: _Stage, returns: _Returns, need: Tensor, rank: int, epoch: int
) -> list[Tensor]:  # fmt: skip
    """Returns the tasks that move rows, in the order of the schedule. Writes their counts into `need`."""
    pulls = _chunks(stage.wave * waves.num_ranks + stage.source)
    fetches = _chunks(returns.wave * waves.num_ranks + returns.owner)
    pull_wave, fetch_wave = stage.wave[pulls[:, 0]], returns.wave[fetches[:, 0]]
    need[flags.arrived() : flags.computed()] = torch.bincount(pull_wave, minlength=waves.num_waves).int()
    need[flags.returned] = max(1, len(fetches))
    links = [_tasks(Kind.READY, 1, done=flags.started, told=flags.ready(rank), value=epoch)]
    if not len(fetches):  # peers wait to hear that everything was fetched
        links.append(_tasks(Kind.FETCH, 1, done=flags.returned, told=flags.freed(rank), value=epoch, peer=rank))
    for action in waves.actions():
        if action.verb != "send":
            continue
        if action.kind == "dispatch":
            work = pulls[pull_wave == action.wave]
            peer = stage.source[work[:, 0]]
            links.append(
                _tasks(Kind.PULL, len(work), first=work[:, 0], count=work[:, 1], peer=peer, wait=flags.ready() + peer,
                       wait_end=flags.ready() + peer + 1, done=flags.arrived(action.wave), wave=action.wave)
            )  # fmt: skip
        else:
            work = fetches[fetch_wave == action.wave]
            peer = returns.owner[work[:, 0]]
            done_flag = flags.finished(0, action.wave) + peer * waves.num_waves
            links.append(
                _tasks(Kind.FETCH, len(work), first=work[:, 0], count=work[:, 1], peer=peer, wait=done_flag,
                       wait_end=done_flag + 1, done=flags.returned, told=flags.freed(rank), value=epoch,
                       wave=action.wave)
            )  # fmt: skip
    return links


def _computes(
    pairs: Pairs, flags: Flags, stage: _Stage, need: Tensor, columns: tuple[int, int], rank: int, epoch: int
) -> list[Tensor]:  # fmt: skip
    """Returns the tasks that multiply, wave by wave: inner columns of each tile, then outer ones."""
    computes = []
    for number in range(pairs.waves.num_waves):
        tiles = (stage.wave_of_tile == number).nonzero().squeeze(-1)
        need[flags.computed(number)] = len(tiles) * columns[1]
        for kind in (Kind.INNER, Kind.OUTER):
            width = columns[kind == Kind.OUTER]
            tile, column = tiles.repeat_interleave(width), torch.arange(width).repeat(len(tiles))
            by_expert = ((stage.expert_of_tile[tile] * width) + column).argsort(stable=True)  # the same weights
            tile, column = tile[by_expert], column[by_expert]
            about: dict[str, int | Tensor] = {
                "first": tile * pairs.rows, "count": pairs.rows, "column": column,
                "expert": stage.expert_of_tile[tile], "wave": number,
            }  # fmt: skip
            if kind == Kind.INNER:
                computes.append(
                    _tasks(kind, len(tile), **about, wait=flags.arrived(), wait_end=flags.arrived(number + 1),
                           done=flags.activated() + tile)
                )  # fmt: skip
            else:
                computes.append(
                    _tasks(kind, len(tile), **about, wait=flags.activated() + tile,
                           wait_end=flags.activated() + tile + 1, also=flags.freed(),
                           also_end=flags.freed(pairs.waves.num_ranks), done=flags.computed(number),
                           told=flags.finished(rank, number), value=epoch)
                )  # fmt: skip
    return computes


def _sums(flags: Flags, returns: _Returns, need: Tensor, num_waves: int) -> Tensor:
    """Returns the tasks that add the results of each token."""
    sums = _chunks(torch.zeros(returns.num_tokens, dtype=torch.int64))
    need[flags.added] = len(sums)
    return _tasks(
        Kind.ADD, len(sums), first=sums[:, 0], count=sums[:, 1], wait=flags.returned, wait_end=flags.returned + 1,
        done=flags.added, wave=num_waves,
    )  # fmt: skip


def _tasks(kind: Kind, number: int, **columns: int | Tensor) -> Tensor:
    """So many tasks of a kind: `columns` of theirs, one value for all or one for each."""
    tasks = torch.zeros(number, WIDTH, dtype=torch.int32)
    tasks[:, Column.KIND], tasks[:, Column.TOLD] = int(kind), -1
    for name, values in columns.items():
        tasks[:, Column[name.upper()]] = values if isinstance(values, int) else values.int()
    return tasks


def _chunks(groups: Tensor) -> Tensor:
    """groups [n], ascending -> [chunks, 2]: first and count of pieces of at most CHUNK that stay within a group."""
    _, sizes = groups.unique_consecutive(return_counts=True)
    firsts = sizes.cumsum(0) - sizes
    pieces = (sizes + CHUNK - 1) // CHUNK
    group = torch.arange(len(sizes)).repeat_interleave(pieces)
    within = torch.arange(len(group)) - (pieces.cumsum(0) - pieces)[group]
    return torch.stack((firsts[group] + within * CHUNK, (sizes[group] - within * CHUNK).clamp(max=CHUNK)), -1)
