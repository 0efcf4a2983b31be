"""The fused kernel's schedule, every order of events for small sizes, and the faults that the check must find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from tests.waves.fused.checker import Violation, check
from wavefold.ops.tilelang.tasks import Column, Kind
from wavefold.waves.fused.tables import Pairs, Tables, tables
from wavefold.waves.schedule import Waves

ROWS = 16
Fault = Callable[[Tables], None]


def schedule(
    *ids: Sequence[Sequence[Sequence[int]]],
    waves: Waves,
    widths: tuple[int, int] = (128, 128),
    fault: Fault | None = None,
) -> Callable[[int], list[Tables]]:
    """ids: each rank's tokens' experts in the first run, in the second, and so on in turn."""
    runs = [[torch.tensor(rows, dtype=torch.int64).view(len(rows), -1 if rows else 2) for rows in run] for run in ids]

    def make(epoch: int) -> list[Tables]:
        routing = runs[(epoch - 1) % len(runs)]
        pairs = Pairs(waves, routing, ROWS)
        weights = [torch.ones(chosen.shape) for chosen in routing]
        ranks = [tables(pairs, weights, rank, widths, epoch) for rank in range(waves.num_ranks)]
        for table in ranks if fault else ():
            fault(table)  # type: ignore[misc]
        return ranks

    return make


CROSSED = [[[0, 2], [3, 1]], [[1, 3]]]
"""Each rank wants both waves of itself and of the other."""


@pytest.mark.parametrize(
    ("ids", "waves", "link_blocks", "blocks", "epochs"),
    [
        (CROSSED, Waves(4, 2, 1), 1, 2, 2),
        (CROSSED, Waves(4, 2, 2, 1), 1, 2, 2),
        (CROSSED, Waves(4, 2, 2, 2), 2, 1, 2),
        ([[[0, 2]], [[1, 3]]], Waves(4, 2, 2, 1), 1, 1, 3),
        ([[[2, 3]], []], Waves(4, 2, 2, 2), 2, 2, 2),  # a rank without tokens, one without rows
        ([[[0, 1]], [[0, 2]], [[0, 3]]], Waves(6, 3, 2, 1), 1, 1, 2),  # a hot expert, idle ranks
        ([[[0, 1]] * 20], Waves(2, 1, 2, 1), 2, 2, 2),  # two tiles of an expert
    ],
)
def test_no_order_of_events_goes_wrong(
    ids: list[list[list[int]]], waves: Waves, link_blocks: int, blocks: int, epochs: int
) -> None:
    assert check(schedule(ids, waves=waves), ROWS, link_blocks, blocks, epochs) > 20


def test_several_columns() -> None:
    assert check(schedule([[[0, 2]], [[1, 3]]], waves=Waves(4, 2, 2, 1), widths=(256, 256)), ROWS, 1, 2, 1) > 1000


def without(kind: Kind, first: Column, end: Column) -> Fault:
    def fault(made: Tables) -> None:
        for tasks in (made.links, made.computes):
            some = tasks[:, Column.KIND] == kind
            tasks[some, first] = tasks[some, end] = 0

    return fault


def needs_one_less(flag: Callable[[Tables], range]) -> Fault:
    def fault(made: Tables) -> None:
        made.need[list(flag(made))] -= 1

    return fault


def own_wave_alone(made: Tables) -> None:
    """Inner tasks wait for the rows that their wave brought, not for those that are there from earlier ones."""
    inner = made.computes[:, Column.KIND] == Kind.INNER
    made.computes[inner, Column.WAIT] = made.computes[inner, Column.WAIT_END] - 1


def outer_first(made: Tables) -> None:
    kinds = made.computes[:, Column.KIND]
    order = torch.where(kinds == Kind.OUTER, 0, torch.where(kinds == Kind.INNER, 1, 2)).argsort(stable=True)
    made.computes = made.computes[order]


def fetch_first(made: Tables) -> None:
    made.links = made.links[(made.links[:, Column.KIND] != Kind.FETCH).int().argsort(stable=True)]


def nobody_says_it_is_finished(made: Tables) -> None:
    made.computes[made.computes[:, Column.KIND] == Kind.OUTER, Column.TOLD] = -1


SHARED_ROWS = [[[0, 1]], [[0, 2]]]
"""Rank 0's token has experts of both its waves: the row comes with the first."""
FAULTS: dict[str, tuple[Fault, str]] = {
    "inner does not wait for rows": (without(Kind.INNER, Column.WAIT, Column.WAIT_END), "reads what pull"),
    "inner waits for its own wave's rows alone": (own_wave_alone, "reads what pull"),
    "outer does not wait for inner": (without(Kind.OUTER, Column.WAIT, Column.WAIT_END), "reads what inner"),
    "outer waits for one column less": (
        needs_one_less(lambda made: range(made.flags.activated(), len(made.need))), "reads what inner"),
    "outer does not wait until its last results were fetched": (
        without(Kind.OUTER, Column.ALSO, Column.ALSO_END), "overwrit"),
    "fetch does not wait": (without(Kind.FETCH, Column.WAIT, Column.WAIT_END), "reads what outer"),
    "add does not wait": (without(Kind.ADD, Column.WAIT, Column.WAIT_END), "reads what fetch"),
    "add waits for one fetch less": (
        needs_one_less(lambda made: range(made.flags.returned, made.flags.returned + 1)), "reads what fetch"),
    "pull does not wait for the peer's tokens": (without(Kind.PULL, Column.WAIT, Column.WAIT_END), "reads tokens"),
    "a wave is called finished one task too early": (
        needs_one_less(lambda made: range(made.flags.computed(), made.flags.computed(made.flags.num_waves))),
        "reads what outer"),
    "outer before inner": (outer_first, "for ever"),
    "fetch before pull": (fetch_first, "for ever"),
    "nobody says that a wave is finished": (nobody_says_it_is_finished, "for ever"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_found(name: str) -> None:
    fault, words = FAULTS[name]
    if "last results" in name:  # a rank runs ahead where its second run needs nobody
        runs, widths, blocks = ([[[0, 1]], [[0, 1]]], [[[0, 1]], [[2, 3]]]), (128, 128), 2
    elif "wave's rows alone" in name:  # as many blocks as tasks before
        runs, widths, blocks = (SHARED_ROWS,), (128, 128), 3
    elif "peer's tokens" in name:
        runs, widths, blocks = (SHARED_ROWS, SHARED_ROWS), (128, 128), 2
    else:
        runs, widths, blocks = (SHARED_ROWS,), (256, 256), 2
    waves = Waves(4, 2, 2, 2)
    check(schedule(*runs, waves=waves, widths=widths), ROWS, 1, blocks, len(runs))
    with pytest.raises(Violation, match=words):
        check(schedule(*runs, waves=waves, widths=widths, fault=fault), ROWS, 1, blocks, len(runs))


def test_runs_of_different_routing() -> None:
    runs = CROSSED, [[[0, 1], [0, 1]], [[2, 3]]], [[[2, 3], [3, 2]], [[0, 1]]]
    assert check(schedule(*runs, waves=Waves(4, 2, 2, 1)), ROWS, 1, 1, 3) > 100


@pytest.mark.parametrize("kind", [Kind.PULL, Kind.INNER, Kind.OUTER, Kind.FETCH])
def test_a_signal_before_the_work_is_found(kind: Kind) -> None:
    with pytest.raises(Violation, match=f"reads what {kind.name.lower()} .* before it is there"):
        check(schedule(CROSSED, waves=Waves(4, 2, 2, 1)), ROWS, 1, 2, 1, early=lambda some: some == kind)


def test_the_events_that_lead_there_are_told() -> None:
    fault, _ = FAULTS["add does not wait"]
    with pytest.raises(Violation, match=r"after:\nrank \d: begin"):
        check(schedule(SHARED_ROWS, waves=Waves(4, 2, 2, 2), fault=fault), ROWS, 1, 2, 1)
