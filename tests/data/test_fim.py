"""Fill in the middle: the form, how often, and that nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavefold.chat import byte_tokenizer
from wavefold.chat.special_tokens import FIM_BEGIN, FIM_END, FIM_HOLE
from wavefold.data import fim
from wavefold.data.batches import Batches, cut_spans
from wavefold.data.fim import SENTINELS, FillInMiddle

FIM = FillInMiddle(0.1, begin=2, hole=3, end=4, bos=0, eos=1)


def restored(ids: list[int]) -> list[int]:
    """The span that was rearranged, by the form: bos <begin> prefix <hole> suffix <end> middle eos."""
    assert (ids[0], ids[1], ids[-1]) == (0, 2, 1)
    hole, end = ids.index(3), ids.index(4)
    assert hole < end
    return ids[2:hole] + ids[end + 1 : -1] + ids[hole + 1 : end]


@given(span=st.lists(st.integers(5, 60000), max_size=50), place=st.tuples(st.integers(0, 2**31), st.integers(0, 9)))
def test_the_form_gives_the_document_back(span, place):
    for dtype in (np.uint16, np.int32, np.int64):
        ids = FIM.rearrange(np.array(span, dtype), place)
        assert len(ids) == len(span) + SENTINELS
        assert restored(ids.tolist()) == span


def test_holes_are_everywhere_and_depend_on_the_place_alone():
    span = np.arange(10, 20)
    cuts = set()
    for number in range(2000):
        ids = FIM.rearrange(span, (0, 0, 0, number, 1)).tolist()
        assert ids == FIM.rearrange(span, (0, 0, 0, number, 1)).tolist()
        cuts.add((ids.index(3) - 2, ids.index(4) - ids.index(3) - 1))  # lengths of prefix and suffix
    of_seeds = {tuple(FIM.rearrange(span, (seed, 0, 0, 0, 1)).tolist()) for seed in range(20)}
    assert len(of_seeds) > 10
    assert cuts == {(prefix, suffix) for prefix in range(11) for suffix in range(11 - prefix)}


def test_the_rate_is_kept_and_the_choice_is_another_each_epoch():
    epochs = [FIM.choose(0, 0, epoch, 20_000) for epoch in range(5)]
    assert all(abs(chosen.mean() - 0.1) < 0.01 for chosen in epochs)
    both = (epochs[0] & epochs[1]).mean()
    assert abs(both - 0.01) < 0.004  # independent
    assert np.array_equal(epochs[2], FIM.choose(0, 0, 2, 20_000))
    assert not np.array_equal(epochs[2], FIM.choose(1, 0, 2, 20_000))


@given(inner=st.integers(1, 500), seq_len=st.integers(12, 100))
def test_spans_cover_a_document_once_and_evenly(inner, seq_len):
    pieces = cut_spans(np.array([inner + 2]), seq_len)
    spans = [(first, first + size + 1 - SENTINELS) for _, first, size in pieces.rows(0, len(pieces))]
    assert [t for first, stop in spans for t in range(first, stop)] == list(range(1, inner + 1))
    lengths = [stop - first for first, stop in spans]
    assert max(lengths) - min(lengths) <= 1
    assert max(pieces.size) <= seq_len


def test_a_long_document_comes_back_out_of_its_batches():
    document = np.array([0, *range(100, 400), 1])
    batches = Batches([document], 0, lambda step: (50, 50), FillInMiddle(1.0, 2, 3, 4))
    spans = []
    for step in range(7):  # 300 tokens in spans of at most 46
        packed = batches(step)
        spans.append(restored([*packed.tokens.tolist(), int(packed.targets[-1])]))
    assert [t for span in sorted(spans) for t in span] == list(range(100, 400))
    assert not np.array_equal(batches(0).tokens.numpy(), batches(7).tokens.numpy())


def test_a_share_of_documents_gets_holes_and_they_change_by_epoch():
    documents = [np.array([0, *range(1000 * n, 1000 * n + 30), 1]) for n in range(1, 201)]
    batches = Batches(documents, 0, lambda step: (64, 1), FillInMiddle(0.1, 2, 3, 4))
    with_holes = [{int(packed.tokens.max()) // 1000 for packed in map(batches, range(200 * e, 200 * e + 200))
                   if 2 in packed.tokens} for e in range(2)]  # fmt: skip
    assert all(5 <= len(chosen) <= 40 for chosen in with_holes)
    assert with_holes[0] != with_holes[1]


def test_ids_are_the_tokenizers():
    tokenizer = byte_tokenizer()
    assert (fim.BEGIN, fim.HOLE, fim.END) == (FIM_BEGIN, FIM_HOLE, FIM_END)
    ids = [tokenizer.token_id(t) for t in (FIM_BEGIN, FIM_HOLE, FIM_END)]
    assert FillInMiddle.of(tokenizer, 0.2) == FillInMiddle(0.2, *ids, tokenizer.bos_id, tokenizer.eos_id)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match=f"fim_rate = {rate} is not allowed; expected 0 to 1"):
        FillInMiddle(rate, 2, 3, 4)


def test_sequences_too_short_for_a_hole_are_refused():
    with pytest.raises(ValueError, match="seq_len = 11 is not allowed with fim_rate > 0; expected 12 or more"):
        Batches([np.arange(100)], 0, lambda step: (11, 100), FIM)(0)


def test_a_document_without_bos_is_refused():
    documents = [np.arange(100, 200)]
    with pytest.raises(ValueError, match=r"document 0 is 100 \.\.\. 199, and cannot get a hole; expected BOS 0"):
        Batches(documents, 0, lambda step: (50, 50), FillInMiddle(1.0, 2, 3, 4))(0)
