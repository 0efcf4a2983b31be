"""Every order in which a few blocks on a few ranks can carry out a schedule: is anything read before it is there,
overwritten before it was used, or waited for in vain?

The tables are those that the kernel is given (`tables.py`); what a task reads and writes is told by what it is for,
not by what it waits for. A block takes a task, begins it once its waits are over, and later is done with it; blocks
may do so in any order and ranks may be runs apart. All states that this reaches are visited.

    x, stage, act, y, back, out     a region is what one task writes; it has the epoch of its last writing
    reading                         allowed if the region has the reader's epoch and nobody is writing it
    writing                         allowed if all who had to read what is there have done so
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from wavefold.ops.tilelang.tasks import Column, Kind
from wavefold.waves.fused.tables import Tables


class Violation(Exception):
    """A schedule that goes wrong, with the order of events that shows it."""


Region = tuple[str, int]
TOKENS: Region = ("tokens", 0)


@dataclass
class _Task:
    name: str
    kind: Kind
    waits: list[tuple[int, int]] = field(default_factory=list)
    """(mask, number): so many of the rank's own tasks of the mask."""
    told: list[tuple[int, int, int]] = field(default_factory=list)
    """(rank, flag, value): that the rank has told so much."""
    reads: list[tuple[int, Region, str]] = field(default_factory=list)
    """(rank, its region, what that is)."""
    writes: list[Region] = field(default_factory=list)


@dataclass
class _Rank:
    tasks: list[_Task]
    num_links: int
    tells: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Of each flag that this rank writes for all: (mask, number, value), when it does."""
    writer: dict[Region, int] = field(default_factory=dict)
    """The bit of the task that writes a region of this rank."""
    readers: dict[Region, dict[int, int]] = field(default_factory=dict)
    """Of each region of this rank: by reading rank, the mask of its tasks that do."""


State = tuple[tuple[int, int, int], ...]
"""Of each rank: epoch, done tasks, tasks that blocks are at."""


def check(
    make: Callable[[int], Sequence[Tables]], rows: int, link_blocks: int = 1, blocks: int = 2, epochs: int = 2,
    early: Callable[[Kind], bool] = lambda kind: False,
) -> int:  # fmt: skip
    """The number of states, all in order. `make(epoch)` gives the tables of all ranks, `rows` a tile's rows.

    `link_blocks` and `blocks` (for the other tasks) of each rank run. `early` seeds a fault: kinds of tasks that
    signal before they have done their work. Raises Violation, with the events that lead there.
    """
    runs = [_model(make(epoch), rows) for epoch in range(1, epochs + 1)]
    num_ranks = len(runs[0])
    full = [[(1 << len(rank.tasks)) - 1 for rank in run] for run in runs]
    early_masks = [
        [sum(1 << i for i, task in enumerate(rank.tasks) if early(task.kind)) for rank in run] for run in runs
    ]

    def signalled(state: State, rank: int) -> int:
        epoch, done, busy = state[rank]
        return done | busy & early_masks[epoch][rank]

    def may_begin(state: State, rank: int) -> list[int]:
        epoch, done, busy = state[rank]
        model = runs[epoch][rank]
        taken = [next((i for i in range(a, model.num_links, link_blocks) if not done >> i & 1), -1)
                 for a in range(link_blocks)]  # fmt: skip
        over = (done >> model.num_links).bit_count() + blocks
        taken += [i for i in range(model.num_links, min(len(model.tasks), model.num_links + over)) if not done >> i & 1]
        return [i for i in taken if i >= 0 and not busy >> i & 1 and is_over(state, rank, model.tasks[i])]

    def is_over(state: State, rank: int, task: _Task) -> bool:
        """Whether a task need not wait."""
        region_writers = signalled(state, rank)
        if any((region_writers & mask).bit_count() < number for mask, number in task.waits):
            return False
        for who, flag, value in task.told:
            mask, number, says = runs[state[who][0]][who].tells.get(flag, (0, 1, 0))
            full_now = (signalled(state, who) & mask).bit_count() >= number
            if (says if full_now else state[who][0]) < value:  # each earlier run told its own epoch
                return False
        return True

    def version(state: State, rank: int, region: Region) -> int:
        """The last run that wrote a region whole, -1 if none did."""
        at, done, _ = state[rank]
        if region == TOKENS or done & runs[at][rank].writer.get(region, 0):
            return at
        return next((run for run in range(at - 1, -1, -1) if region in runs[run][rank].writer), -1)

    def check_begin(state: State, rank: int, i: int) -> None:
        epoch = state[rank][0]
        task = runs[epoch][rank].tasks[i]
        for writer, region, name in task.reads:
            at, _, busy = state[writer]
            if version(state, writer, region) != epoch or busy & runs[at][writer].writer.get(region, 0):
                when = "after it was overwritten" if at > epoch else "before it is there"
                raise Violation(f"{task.name} of rank {rank} reads {name} of rank {writer} {when}")
        check_readers(state, rank, epoch, task.writes, f"{task.name} of rank {rank}")

    def check_readers(state: State, rank: int, epoch: int, regions: Sequence[Region], who: str) -> None:
        """What the runs before left there was used."""
        for run, region in itertools.product(range(epoch), regions):
            for reader, mask in runs[run][rank].readers.get(region, {}).items():
                at, done, _ = state[reader]
                if at < run or (at == run and done & mask != mask):
                    raise Violation(f"{who} overwrites {region[0]} before rank {reader} used it")

    start: State = tuple((0, 0, 0) for _ in range(num_ranks))
    seen: dict[State, tuple[State, str] | None] = {start: None}
    stack = [start]
    while stack:
        state = stack.pop()
        moves = 0
        try:
            for rank, (epoch, done, busy) in enumerate(state):
                model = runs[epoch][rank]
                following = []
                for i in may_begin(state, rank):
                    check_begin(state, rank, i)
                    following.append(((epoch, done, busy | 1 << i), f"begin {model.tasks[i].name}"))
                for i in range(len(model.tasks)):
                    if busy >> i & 1:
                        following.append(((epoch, done | 1 << i, busy & ~(1 << i)), f"end {model.tasks[i].name}"))
                if done == full[epoch][rank] and epoch + 1 < epochs:
                    check_readers(state, rank, epoch + 1, [TOKENS], f"rank {rank}, laying out tokens,")
                    following.append(((epoch + 1, 0, 0), "next run"))
                moves += len(following)
                for local, event in following:
                    new = (*state[:rank], local, *state[rank + 1 :])
                    if new not in seen:
                        seen[new] = state, f"rank {rank}: {event}"
                        stack.append(new)
            finished = all(epoch == epochs - 1 and done == full[epoch][r] for r, (epoch, done, _) in enumerate(state))
            if not moves and not finished:
                raise Violation("blocks wait for each other for ever")
        except Violation as violation:
            raise Violation(f"{violation}, after:\n" + "\n".join(_history(seen, state))) from None
    return len(seen)


def _history(seen: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    events = []
    while (before := seen[state]) is not None:
        state, event = before
        events.append(event)
    return events[::-1]


def _model(ranks: Sequence[Tables], rows: int) -> list[_Rank]:
    """What the tables of one run say, and what their tasks read and write."""
    lists = [torch.cat((table.links, table.computes)).tolist() for table in ranks]
    models = [
        _Rank([_Task(_name(task), Kind(task[Column.KIND])) for task in tasks], len(table.links))
        for tasks, table in zip(lists, ranks, strict=True)
    ]
    for model, tasks, table in zip(models, lists, ranks, strict=True):
        adds: dict[int, int] = {}
        for i, task in enumerate(tasks):
            adds[task[Column.DONE]] = adds.get(task[Column.DONE], 0) | 1 << i
        for task in tasks:
            if task[Column.TOLD] >= 0:
                done = task[Column.DONE]
                model.tells[task[Column.TOLD]] = adds[done], int(table.need[done]), task[Column.VALUE]
        for i, task in enumerate(tasks):
            spans = (Column.WAIT, Column.WAIT_END), (Column.ALSO, Column.ALSO_END)
            for flag in (f for a, b in spans for f in range(task[a], task[b])):
                need = int(table.need[flag])
                if table.flags.shared <= flag < table.flags.activated():
                    model.tasks[i].told.append((table.flags.writer(flag), flag, need))
                else:
                    model.tasks[i].waits.append((adds.get(flag, 0), need))
    _regions(models, lists, ranks, rows)
    return models


def _regions(models: list[_Rank], lists: Sequence[list[list[int]]], ranks: Sequence[Tables], rows: int) -> None:
    """Fill in who reads what."""
    written: list[dict[Region, int]] = []
    for model, tasks in zip(models, lists, strict=True):
        region_writers: dict[Region, int] = {}
        for i, task in enumerate(tasks):
            kind, first, count = task[Column.KIND], task[Column.FIRST], task[Column.COUNT]
            if kind == Kind.PULL:
                region_writers |= {("stage", row): i for row in range(first, first + count)}
            elif kind in (Kind.INNER, Kind.OUTER):
                region_writers["act" if kind == Kind.INNER else "y", (first // rows) << 16 | task[Column.COLUMN]] = i
            elif kind == Kind.FETCH:
                region_writers |= {("back", pair): i for pair in range(first, first + count)}
        written.append(region_writers)
        for region, i in region_writers.items():
            model.tasks[i].writes.append(region)
            model.writer[region] = 1 << i
    for rank, (tasks, table) in enumerate(zip(lists, ranks, strict=True)):
        widths = {name: 1 + max([key & 0xFFFF for content, key in written[rank] if content == name], default=0)
                  for name in ("act", "y")}  # fmt: skip
        numbers = table.pairs[:, 1].tolist()
        for i, task in enumerate(tasks):
            kind, first, count, peer = task[Column.KIND], task[Column.FIRST], task[Column.COUNT], task[Column.PEER]
            wanted: list[tuple[int, str, int]] = []
            if kind == Kind.PULL:
                models[rank].tasks[i].reads.append((peer, TOKENS, "tokens"))
                _read(models[peer], TOKENS, rank, i)
            elif kind == Kind.INNER:
                places = table.place[first : first + count][table.filled[first : first + count]].tolist()
                wanted = [(rank, "stage", place) for place in places]
            elif kind == Kind.OUTER:
                wanted = [(rank, "act", (first // rows) << 16 | column) for column in range(widths["act"])]
            elif kind == Kind.FETCH:
                wide = 1 + max(key & 0xFFFF for content, key in written[peer] if content == "y") if count else 0
                some_rows = table.pairs[first : first + count, 0].tolist()
                wanted = [(peer, "y", (row // rows) << 16 | column) for row in some_rows for column in range(wide)]
            elif kind == Kind.ADD:
                slots = len(numbers) // max(1, table.num_tokens)
                wanted = [
                    (rank, "back", j) for j, number in enumerate(numbers) if first <= number // slots < first + count
                ]
            for writer, name, key in set(wanted):
                by = written[writer][name, key]
                content = f"what {models[writer].tasks[by].name} makes"
                models[rank].tasks[i].reads.append((writer, (name, key), content))
                _read(models[writer], (name, key), rank, i)


def _read(model: _Rank, region: Region, rank: int, task: int) -> None:
    """A task of `rank` reads a region of the model's rank."""
    by_rank = model.readers.setdefault(region, {})
    by_rank[rank] = by_rank.get(rank, 0) | 1 << task


def _name(task: Sequence[int]) -> str:
    kind = Kind(task[Column.KIND])
    return f"{kind.name.lower()} {task[Column.FIRST]}" + (
        f".{task[Column.COLUMN]}" if kind in (Kind.INNER, Kind.OUTER) else ""
    )
