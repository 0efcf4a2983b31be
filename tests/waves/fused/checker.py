"""Explores every order in which a few blocks on a few ranks can carry out a schedule of the fused kernel.

Finds values that are read before they are written or after they are overwritten, and tasks that wait for ever. The
tables are those of the kernel (`tables.py`). The reads and writes of a task follow from its purpose, not from its
waits. A block takes a task, begins it once its waits are over, and later ends it. Blocks may do so in any order, and
ranks may be in different runs. All reachable states are visited.

    x, stage, act, y, back, out     a region is the output of one task; it has the epoch of its last write
    reading                         allowed if the region has the epoch of the reader and no task is writing it
    writing                         allowed if all readers of the old content have ended
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from wavefold.ops.tilelang.tasks import Column, Kind
from wavefold.waves.fused.tables import Tables


class Violation(Exception):
    """A wrong schedule, with the order of events that shows it."""


Region = tuple[str, int]
TOKENS: Region = ("tokens", 0)


@dataclass
class _Task:
    name: str
    kind: Kind
    waits: list[tuple[int, int]] = field(default_factory=list)
    """(mask, number): waits for so many local tasks of the mask."""
    told: list[tuple[int, int, int]] = field(default_factory=list)
    """(rank, flag, value): waits until the rank has told this value."""
    reads: list[tuple[int, Region, str]] = field(default_factory=list)
    """(rank, region of that rank, description)."""
    writes: list[Region] = field(default_factory=list)


@dataclass
class _Rank:
    tasks: list[_Task]
    num_links: int
    tells: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """(mask, number, value) of each flag that this rank tells all: told once so many tasks of the mask have ended."""
    writer: dict[Region, int] = field(default_factory=dict)
    """Bit of the task that writes a region of this rank."""
    readers: dict[Region, dict[int, int]] = field(default_factory=dict)
    """Mask of the reading tasks, by region of this rank and by reading rank."""


State = tuple[tuple[int, int, int], ...]
"""(epoch, mask of ended tasks, mask of tasks in progress) of each rank."""


def check(
    make: Callable[[int], Sequence[Tables]], rows: int, link_blocks: int = 1, blocks: int = 2, epochs: int = 2,
    early: Callable[[Kind], bool] = lambda kind: False,
) -> int:  # fmt: skip
    """Returns the number of states, if no order of events goes wrong.

    `make(epoch)` returns the tables of all ranks. `rows`: rows of a tile. `link_blocks` and `blocks` (for the other
    tasks) of each rank run. `early` seeds a fault: tasks of these kinds signal before they have done their work. Raises
    Violation with the events that lead to it.
    """
    machine = _Machine([_model(make(epoch), rows) for epoch in range(1, epochs + 1)], link_blocks, blocks, early)
    start: State = tuple((0, 0, 0) for _ in machine.runs[0])
    seen: dict[State, tuple[State, str] | None] = {start: None}
    stack = [start]
    while stack:
        state = stack.pop()
        try:
            moves = machine.moves(state)
            if not moves and not machine.is_finished(state):
                raise Violation("blocks wait for each other for ever")
        except Violation as violation:
            raise Violation(f"{violation}, after:\n" + "\n".join(_history(seen, state))) from None
        for new, event in moves:
            if new not in seen:
                seen[new] = state, event
                stack.append(new)
    return len(seen)


class _Machine:
    """Ranks and their blocks: the events that can follow a state."""

    def __init__(self, runs: list[list[_Rank]], link_blocks: int, blocks: int, early: Callable[[Kind], bool]):
        self.runs, self.link_blocks, self.blocks = runs, link_blocks, blocks
        self.full = [[(1 << len(rank.tasks)) - 1 for rank in run] for run in runs]
        self.early_masks = [
            [sum(1 << i for i, task in enumerate(rank.tasks) if early(task.kind)) for rank in run] for run in runs
        ]

    def is_finished(self, state: State) -> bool:
        """True if all ranks have done all tasks of the last run."""
        last = len(self.runs) - 1
        return all(epoch == last and done == self.full[epoch][rank] for rank, (epoch, done, _) in enumerate(state))

    def moves(self, state: State) -> list[tuple[State, str]]:
        """Returns the states that can follow, each with its event. Raises Violation if an event is wrong."""
        moves: list[tuple[State, str]] = []
        for rank in range(len(state)):
            for local, event in self._moves_of(state, rank):
                moves.append(((*state[:rank], local, *state[rank + 1 :]), f"rank {rank}: {event}"))
        return moves

    def _moves_of(self, state: State, rank: int) -> list[tuple[tuple[int, int, int], str]]:
        epoch, done, busy = state[rank]
        tasks = self.runs[epoch][rank].tasks
        following = []
        for i in self._may_begin(state, rank):
            self._check_begin(state, rank, i)
            following.append(((epoch, done, busy | 1 << i), f"begin {tasks[i].name}"))
        for i, task in enumerate(tasks):
            if busy >> i & 1:
                following.append(((epoch, done | 1 << i, busy & ~(1 << i)), f"end {task.name}"))
        if done == self.full[epoch][rank] and epoch + 1 < len(self.runs):
            self._check_readers(state, rank, epoch + 1, [TOKENS], f"rank {rank}, laying out tokens,")
            following.append(((epoch + 1, 0, 0), "next run"))
        return following

    def _signalled(self, state: State, rank: int) -> int:
        epoch, done, busy = state[rank]
        return done | busy & self.early_masks[epoch][rank]

    def _may_begin(self, state: State, rank: int) -> list[int]:
        """Returns the tasks that a free block can take and that need not wait."""
        epoch, done, busy = state[rank]
        model, links = self.runs[epoch][rank], self.link_blocks
        taken = [next((i for i in range(a, model.num_links, links) if not done >> i & 1), -1) for a in range(links)]
        over = (done >> model.num_links).bit_count() + self.blocks
        taken += [i for i in range(model.num_links, min(len(model.tasks), model.num_links + over)) if not done >> i & 1]
        return [i for i in taken if i >= 0 and not busy >> i & 1 and self._is_over(state, rank, model.tasks[i])]

    def _is_over(self, state: State, rank: int, task: _Task) -> bool:
        """True if the waits of a task are over."""
        signalled = self._signalled(state, rank)
        if any((signalled & mask).bit_count() < number for mask, number in task.waits):
            return False
        for who, flag, value in task.told:
            mask, number, says = self.runs[state[who][0]][who].tells.get(flag, (0, 1, 0))
            full_now = (self._signalled(state, who) & mask).bit_count() >= number
            if (says if full_now else state[who][0]) < value:  # an earlier run told its epoch
                return False
        return True

    def _version(self, state: State, rank: int, region: Region) -> int:
        """Returns the last run that wrote all of a region, or -1."""
        at, done, _ = state[rank]
        if region == TOKENS or done & self.runs[at][rank].writer.get(region, 0):
            return at
        return next((run for run in range(at - 1, -1, -1) if region in self.runs[run][rank].writer), -1)

    def _check_begin(self, state: State, rank: int, i: int) -> None:
        """Raises Violation if a task that begins reads a wrong version, or overwrites a region that is needed."""
        epoch = state[rank][0]
        task = self.runs[epoch][rank].tasks[i]
        for writer, region, name in task.reads:
            at, _, busy = state[writer]
            if self._version(state, writer, region) != epoch or busy & self.runs[at][writer].writer.get(region, 0):
                when = "after it was overwritten" if at > epoch else "before it is there"
                raise Violation(f"{task.name} of rank {rank} reads {name} of rank {writer} {when}")
        self._check_readers(state, rank, epoch, task.writes, f"{task.name} of rank {rank}")

    def _check_readers(self, state: State, rank: int, epoch: int, regions: Sequence[Region], who: str) -> None:
        """Raises Violation if a reader of an earlier run still needs one of the regions."""
        for run, region in itertools.product(range(epoch), regions):
            for reader, mask in self.runs[run][rank].readers.get(region, {}).items():
                at, done, _ = state[reader]
                if at < run or (at == run and done & mask != mask):
                    raise Violation(f"{who} overwrites {region[0]} before rank {reader} used it")


def _history(seen: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    events = []
    while (before := seen[state]) is not None:
        state, event = before
        events.append(event)
    return events[::-1]


def _model(ranks: Sequence[Tables], rows: int) -> list[_Rank]:
    """Returns the tasks of one run by rank, with their waits, reads and writes."""
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
    """Fills in readers and writers of all regions."""
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
    """Notes that a task of `rank` reads a region of `model`."""
    by_rank = model.readers.setdefault(region, {})
    by_rank[rank] = by_rank.get(rank, 0) | 1 << task


def _name(task: Sequence[int]) -> str:
    kind = Kind(task[Column.KIND])
    return f"{kind.name.lower()} {task[Column.FIRST]}" + (
        f".{task[Column.COLUMN]}" if kind in (Kind.INNER, Kind.OUTER) else ""
    )
