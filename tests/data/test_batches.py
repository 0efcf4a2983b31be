"""Batches: what each holds, and what an epoch does."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavefold.data.batches import IGNORED, MIN_PIECE, Batches, PackedBatch, Tokens, cut, fixed_batches, pack
from wavefold.data.fim import FillInMiddle


def always(seq_len: int, batch_tokens: int) -> Callable[[int], tuple[int, int]]:
    return lambda step: (seq_len, batch_tokens)


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents of which every token is another number: a thousand times the document's, and on."""
    return [np.arange(1000 * number, 1000 * number + length) for number, length in enumerate(lengths)]


def same(one: PackedBatch, two: PackedBatch) -> bool:
    return one.tokens.equal(two.tokens) and one.targets.equal(two.targets) and one.lengths == two.lengths


def targets_of_an_epoch(batches: Batches, num_targets: int, first: int = 0) -> list[int]:
    """The first `num_targets` targets in the order of batches, from the step `first` on."""
    seen: list[int] = []
    for step in itertools.count(first):
        seen += batches(step).targets.tolist()
        if len(seen) >= num_targets:
            return seen[:num_targets]


LENGTHS = [50, 3, 21, 40, 41, 42, 48, 49, 100, 7, 64, 2, 90]
EVERY_TARGET = sorted(t for document in numbered(LENGTHS) for t in document[1:].tolist())


@given(length=st.integers(2, 400), seq_len=st.integers(1, 60))
def test_pieces_cover_a_document_once(length, seq_len):
    pieces = [piece.ids for piece in cut(np.arange(length), seq_len)]
    assert np.concatenate([p[:-1] for p in pieces[:-1]] + [pieces[-1]]).tolist() == list(range(length))
    assert all(a[-1] == b[0] for a, b in itertools.pairwise(pieces))
    assert all(2 <= len(p) <= seq_len + 1 for p in pieces)
    assert len(pieces) == -(-(length - 1) // seq_len)
    if seq_len >= 2 * MIN_PIECE and len(pieces) > 1:
        assert min(len(p) - 1 for p in pieces) >= MIN_PIECE


def test_targets_are_the_next_tokens_and_never_of_another_document():
    packed = pack([np.arange(0, 10), np.arange(50, 55)])
    assert packed.lengths == (9, 4)
    assert (packed.targets == packed.tokens + 1).all()
    assert packed.num_targets == 13 and packed.num_pairs == 11


def test_what_is_not_learned_is_no_target():
    learned = np.array([False, False, True, True, False])
    packed = pack([Tokens(np.arange(5), learned), np.arange(10, 13)])
    assert packed.targets.tolist() == [IGNORED, 2, 3, IGNORED, 11, 12]
    assert packed.tokens.tolist() == [0, 1, 2, 3, 10, 11]
    assert packed.num_targets == 4
    assert packed.share(0, 2).num_targets + packed.share(1, 2).num_targets == 4


@pytest.mark.parametrize("ids", [np.array([0.0, np.nan]), np.array([True]), np.zeros((2, 2), int), np.array(["a"])])
def test_ids_that_are_no_integers_are_refused(ids):
    with pytest.raises(ValueError, match=r"expected integers \[n\]"):
        Tokens(ids)


@pytest.mark.parametrize("learned", [np.ones(3, bool), np.ones(2, int)])
def test_masks_of_another_shape_or_kind_are_refused(learned):
    with pytest.raises(ValueError, match="expected a bool for each id"):
        Tokens(np.arange(2), learned)


def stages(step: int) -> tuple[int, int]:
    """Two lengths, and a batch that grows."""
    return (20 if step < 9 else 50), 60 + 20 * min(step, 5)


@settings(deadline=None)
@given(order=st.lists(st.integers(0, 30), min_size=1, max_size=12))
def test_a_batch_depends_on_seed_and_step_alone(order):
    """A run resumed at any step, or looking ahead and back, gets the batches of one that ran through."""
    fim = FillInMiddle(0.3, 2, 3, 4, bos=0, eos=1)
    documents = [np.array([0, *range(5, length + 5), 1]) for length in LENGTHS]
    through = Batches(documents, 3, stages, fim)
    expected = [through(step) for step in range(31)]
    other = Batches(documents, 3, stages, fim)
    assert all(same(other(step), expected[step]) for step in order)


def test_another_seed_gives_other_batches():
    documents = numbered(LENGTHS)
    assert not same(Batches(documents, 3, stages)(0), Batches(documents, 4, stages)(0))


def test_lists_arrays_and_tokens_are_the_same_documents():
    arrays = numbered(LENGTHS)
    of_lists, of_tokens = ([kind(a) for a in arrays] for kind in (np.ndarray.tolist, Tokens))
    for step in range(12):
        assert same(Batches(arrays, 0, stages)(step), Batches(of_lists, 0, stages)(step))
        assert same(Batches(arrays, 0, stages)(step), Batches(of_tokens, 0, stages)(step))


@pytest.mark.parametrize("seq_len", [5, 20, 200])
@pytest.mark.parametrize("batch_tokens", [1, 100, 5000])
def test_an_epoch_holds_every_token_once(seq_len, batch_tokens):
    batches = Batches(numbered(LENGTHS), 0, always(seq_len, batch_tokens))
    assert batches.num_tokens == len(EVERY_TARGET)
    two = targets_of_an_epoch(batches, 2 * len(EVERY_TARGET))
    first, second = two[: len(EVERY_TARGET)], two[len(EVERY_TARGET) :]
    assert sorted(first) == sorted(second) == EVERY_TARGET
    assert first != second


def test_an_epoch_holds_every_token_once_while_batches_grow():
    batches = Batches(numbered(LENGTHS), 0, lambda step: (20, 40 + 7 * step))
    assert sorted(targets_of_an_epoch(batches, len(EVERY_TARGET))) == EVERY_TARGET


def test_another_length_begins_another_order():
    """After it every token comes once an epoch again; before it the order was left where it was."""
    batches = Batches(numbered(LENGTHS), 0, stages)
    assert max(max(batches(step).lengths) for step in range(9)) == 20
    assert sorted(targets_of_an_epoch(batches, len(EVERY_TARGET), first=9)) == EVERY_TARGET
    assert max(max(batches(step).lengths) for step in range(9, 15)) == 50
    long = Batches(numbered(LENGTHS), 0, always(50, 160))
    assert not same(batches(9), long(0))  # drawn anew


def test_the_order_is_that_of_a_run_of_one_batch_size():
    """Growing batches take the pieces of the same order."""
    grown, even = (Batches(numbered(LENGTHS), 5, size) for size in (lambda step: (20, 40 + 7 * step), always(20, 90)))
    assert targets_of_an_epoch(grown, 900) == targets_of_an_epoch(even, 900)


def test_batches_are_as_full_as_their_pieces_allow():
    documents = numbered([int(n) for n in np.random.default_rng(0).integers(2, 120, 200)])
    batches = Batches(documents, 0, always(20, 100))
    packed = [batches(step) for step in range(300)]
    for one, after in itertools.pairwise(packed):
        assert len(one.tokens) <= 100 < len(one.tokens) + after.lengths[0]


def test_sequences_hold_one_document_each():
    batches = Batches(numbered(LENGTHS), 0, always(20, 100))
    for step in range(40):
        packed = batches(step)
        assert sum(packed.lengths) == len(packed.tokens)
        for tokens, targets in zip(
            packed.tokens.split(packed.lengths), packed.targets.split(packed.lengths), strict=True
        ):
            assert (targets == tokens + 1).all()
            assert len({int(t) // 1000 for t in [*tokens, *targets]}) == 1


def test_a_piece_larger_than_a_batch_is_a_batch():
    batches = Batches(numbered([100]), 0, always(50, 10))
    assert {batches(step).lengths for step in range(10)} == {(50,), (49,)}


def test_pieces_of_which_nothing_is_learned_are_left_out():
    learned = np.zeros(100, bool)
    learned[[45, 60]] = True  # 60 is the last target of the piece from 40 and the first token of the next
    batches = Batches([Tokens(np.arange(100), learned), np.arange(1000, 1030)], 0, always(20, 20))
    seen = [batches(step) for step in range(20)]
    assert all(packed.num_targets for packed in seen)
    assert {min(packed.tokens.tolist()) for packed in seen} == {40, 1000, 1020}
    assert {packed.num_targets for packed in seen} == {2, 20, 9}


def test_a_late_step_is_counted_to_once(monkeypatch):
    """Each step before it is placed once and none is read; a step that is known is found at once."""
    batches, calls = Batches([np.arange(300)] * 400, 0, always(64, 512)), Counter()

    def count(name):
        original = getattr(Batches, name)

        def counting(*given):
            calls[name] += 1
            return original(*given)

        monkeypatch.setattr(Batches, name, counting)

    count("_take")
    count("_read")
    late = batches(10_000)
    assert calls == {"_take": 10_001, "_read": len(late.lengths)}
    calls.clear()
    batches(9_000)
    assert calls["_take"] == 1


def test_a_corpus_shorter_than_a_sequence_is_refused():
    with pytest.raises(ValueError, match="has 2 tokens, fewer than one sequence; expected at least seq_len = 128"):
        Batches([[1, 2, 3]], 0, always(128, 1024))
    with pytest.raises(ValueError, match="has 0 tokens"):
        Batches([], 0, always(128, 1024))
    with pytest.raises(ValueError, match="has 0 tokens"):
        Batches([[], [1]], 0, always(1, 1))
    grows = Batches([np.arange(50)], 0, lambda step: (10 if step < 3 else 100, 100))
    grows(2)
    with pytest.raises(ValueError, match="has 49 tokens"):
        grows(3)


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (10, -1)])
def test_sizes_of_nothing_are_refused(size):
    with pytest.raises(ValueError, match=f"seq_len = {size[0]}, batch_tokens = {size[1]} of step 0 are not allowed"):
        Batches(numbered(LENGTHS), 0, always(*size))


def test_fixed_batches_hold_every_token_once_in_order():
    batches = fixed_batches(numbered(LENGTHS), 20, 100)
    assert [t for packed in batches for t in packed.targets.tolist()] == EVERY_TARGET
    assert max(len(packed.tokens) for packed in batches) <= 100
    assert max(max(packed.lengths) for packed in batches) == 20
    assert all(len(one.tokens) + after.lengths[0] > 100 for one, after in itertools.pairwise(batches))


@pytest.mark.parametrize("documents", [[], [[1]], [Tokens(np.arange(9), np.zeros(9, bool))]])
def test_fixed_batches_of_nothing_are_refused(documents):
    with pytest.raises(ValueError, match="hold no token to be learned"):
        fixed_batches(documents, 20, 100)


def test_holes_leave_masked_documents_and_every_token_alone():
    """With fill-in-the-middle, an epoch still holds each document's tokens; the masked document is never rearranged."""
    marks = {0, 1, 2, 3, 4}
    plain = [np.array([0, *(100 * number + np.arange(10, 10 + length)), 1]) for number, length in enumerate(LENGTHS)]
    chat = Tokens(np.arange(5000, 5040), np.arange(40) >= 20)
    batches = Batches([*plain, chat], 0, always(20, 80), FillInMiddle(1.0, 2, 3, 4))
    sequences = [
        (tokens.tolist(), targets.tolist())
        for packed in map(batches, range(200))
        for tokens, targets in zip(
            packed.tokens.split(packed.lengths), packed.targets.split(packed.lengths), strict=True
        )
    ]
    chats = [tokens for tokens, _ in sequences if tokens[0] >= 5000]
    assert chats and all(tokens == list(range(tokens[0], tokens[0] + len(tokens))) for tokens in chats)
    held = Counter()
    for tokens, targets in sequences:
        if 2 in tokens:
            assert len(tokens) <= 20 and (tokens[0], tokens[1], targets[-1]) == (0, 2, 1)
            assert tokens.count(3) == tokens.count(4) == 1
            held.update(t for t in tokens if t not in marks)
    long = [t for number, length in enumerate(LENGTHS) if length >= MIN_PIECE for t in plain[number][1:-1].tolist()]
    assert set(held) == set(long)
    assert max(held.values()) - min(held.values()) <= 1
