"""Random lives of sequences in a small pool: nothing leaks, nothing is freed twice, nothing stale is ever read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.cache.synthetic import Twin, TwinPool
from wavefold.cache import BlockAllocator, CacheLayout, PagedView, Pool, Sequence, paged_view, state

NUM_BLOCKS = 9
MAX_SEQUENCES = 4
MAX_STEPS = 12
EXAMPLES = 10_000
FEW = 1_000
"""In the default run."""

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 60, 124, 126, 127, 128, 129, 130, 144, 145, 250, 256, 300)
ACTIONS = ("extend", "open", "fork", "rewind", "both", "close", "abort")

step = st.integers(0, len(ACTIONS) * MAX_SEQUENCES * len(LENGTHS) - 1)
schedules = st.lists(step, min_size=1, max_size=MAX_STEPS)


def run_schedule(schedule: list[int]) -> None:
    """Each step is an action, the sequence that it is about, and a length; check the whole pool after every step."""
    twins = TwinPool(NUM_BLOCKS)
    twins.extend([twins.open()], [130])
    for number in schedule:
        rest, action = divmod(number, len(ACTIONS))
        length, which = divmod(rest, MAX_SEQUENCES)
        act(twins, ACTIONS[action], which, LENGTHS[length])
        twins.check()
    for twin in twins.twins:
        twin.check()
    for twin in list(twins.twins):
        twins.close(twin)
    twins.check()
    assert twins.pool.blocks.num_free == NUM_BLOCKS


def act(twins: TwinPool, action: str, which: int, length: int) -> None:
    if not twins.twins:
        twins.open()
    twin: Twin = twins.twins[which % len(twins.twins)]
    room = len(twins.twins) < MAX_SEQUENCES
    if action == "extend":
        twins.extend([twin], [length])
    elif action == "both":  # the sequence and the one after it, in one pass
        other = twins.twins[(which + 1) % len(twins.twins)]
        if other is not twin:
            twins.extend([twin, other], [length, 1 + length // 2])
    elif action == "abort":
        twins.extend([twin], [length], complete=False)
    elif action == "open" and room:
        twins.open()
    elif action == "fork" and room:
        twins.fork(twin)
    elif action == "rewind":
        twins.rewind(twin, length)
    elif action == "close":
        twins.close(twin)


def many(examples: int, *phases: Phase) -> Callable[[], None]:
    """`run_schedule` on so many random schedules, always the same ones."""
    options = settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, report_multiple_bugs=False,
        phases=phases or (Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return options(given(schedules)(lambda schedule: run_schedule(schedule)))


@pytest.mark.parametrize("examples", [FEW, pytest.param(EXAMPLES, marks=pytest.mark.slow)])
def test_schedules(examples: int) -> None:
    many(examples)()


def shared_blocks_are_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pool, "_copies", lambda self, sequences: [False] * len(sequences))


def copies_are_empty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pool, "_copy_block", lambda self, source, target: None)


def fork_holds_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockAllocator, "share", lambda self, blocks: None)


def fork_shares_its_rings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state.SequenceState, "copy", lambda self, into=None: self)


def rewind_keeps_its_blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sequence, "_truncate", lambda self: None)


def rewind_frees_one_too_many(patch: pytest.MonkeyPatch) -> None:
    def truncate(self: Sequence) -> None:
        keep = self.num_tokens // 128
        self.pool._free(self.table[keep:])
        del self.table[keep:]

    patch.setattr(Sequence, "_truncate", truncate)


def close_keeps_its_blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pool, "_free", lambda self, blocks: None)


def ring_off_by_one(patch: pytest.MonkeyPatch) -> None:
    store = paged_view.ring_store
    patch.setattr(paged_view, "ring_store", lambda ring, rows, end: store(ring, rows, end + 1))


def ring_too_short_for_a_rewind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CacheLayout, "window_rows", 127 + 15)


def rows_stored_before_commit(patch: pytest.MonkeyPatch) -> None:
    def store(self: PagedView, ring, rows) -> None:  # type: ignore[no-untyped-def]
        paged_view.ring_store(ring, rows.clone(), self.end)

    def window(self: PagedView, layer: int, kv):  # type: ignore[no-untyped-def]
        seen = original(self, layer, kv)
        store(self, self.sequence.state.windows[layer], kv)
        return seen

    original = PagedView.window
    patch.setattr(PagedView, "window", window)


def abort_commits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PagedView, "abort", PagedView.commit)


def entries_of_another_layer(patch: pytest.MonkeyPatch) -> None:
    original = Pool.rows_of
    patch.setattr(Pool, "rows_of", lambda self, kind, layer: original(self, kind, 0 if kind == "csa" else layer))


FAULTS = (
    shared_blocks_are_written, copies_are_empty, fork_holds_nothing, fork_shares_its_rings, rewind_keeps_its_blocks,
    rewind_frees_one_too_many, close_keeps_its_blocks, ring_off_by_one, ring_too_short_for_a_rewind,
    rows_stored_before_commit, abort_commits, entries_of_another_layer,
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_caught(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same check, on no more schedules than the default run tries, fails on a cache with one thing wrong."""
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        many(FEW, Phase.generate)()
