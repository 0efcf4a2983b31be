"""Fill in the middle: the form, how often, and that nothing is lost."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavefold.chat import byte_tokenizer
from wavefold.chat.fim import hole_ids
from wavefold.chat.special_tokens import FIM_BEGIN, FIM_END, FIM_HOLE
from wavefold.chat.tokenizer import train_tokenizer
from wavefold.data import fim
from wavefold.data.batches import Batches, cut_spans
from wavefold.data.fim import SENTINELS, FillInMiddle

FIM = FillInMiddle(0.1, begin=2, hole=3, end=4, bos=0, eos=1)


def restored(ids: list[int], made: FillInMiddle = FIM) -> list[int]:
    """The span that was rearranged, by the form: bos <begin> prefix <hole> suffix <end> middle eos."""
    assert (ids[0], ids[1], ids[-1]) == (made.bos, made.begin, made.eos)
    hole, end = ids.index(made.hole), ids.index(made.end)
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


CODE = "import os\n\n\ndef area(width, height):\n    if width < 0:\n        return None\n    return width * height\n"


def parts_of(ids: np.ndarray, made: FillInMiddle, tokenizer) -> list[str]:
    """Texts of prefix, middle, suffix."""
    tokens = ids.tolist()
    hole, end = tokens.index(made.hole), tokens.index(made.end)
    return [tokenizer.decode(part) for part in (tokens[2:hole], tokens[end + 1 : -1], tokens[hole + 1 : end])]


def test_holes_of_lines_begin_and_end_where_editors_ask():
    tokenizer = byte_tokenizer()
    made = FillInMiddle.of(tokenizer, 1.0, lines=1.0)
    span = np.array(tokenizer.encode(CODE))
    middles = Counter()
    for number in range(3000):
        ids = made.rearrange(span, (0, 0, 0, number, 1))
        assert np.array_equal(ids, made.rearrange(span, (0, 0, 0, number, 1)))
        prefix, middle, suffix = parts_of(ids, made, tokenizer)
        assert prefix + middle + suffix == CODE
        assert middle
        assert middle.strip("\n ").count("\n") == 0
        middles[middle] += 1
    lines = ["def area(width, height):", "if width < 0:", "return None"]
    assert all(middles[line] > 50 for line in lines)  # whole lines
    assert all(
        middles[line + blanks] > 50 for line, blanks in zip(lines, ("\n    ", "\n        ", "\n    "), strict=True)
    )
    assert all(middles[part] > 5 for part in ("height):", "width", " < 0:", "None"))  # ends of lines, and words
    assert all(middles[part] for part in ("ret", "one"))  # parts of words
    assert not any("import" in middle or "*" in middle for middle in middles)  # the first and the last line stay


def test_holes_of_lines_are_encoded_apart_and_no_longer_than_others():
    tokenizer = train_tokenizer([CODE * 50], 340)
    made = FillInMiddle.of(tokenizer, 1.0, lines=1.0)
    span = np.array(tokenizer.encode(CODE))
    lengths = set()
    for number in range(500):
        ids = made.rearrange(span, (0, 0, 0, number, 1))
        prefix, middle, suffix = parts_of(ids, made, tokenizer)
        assert prefix + middle + suffix in CODE  # what did not fit is left out at an end
        assert ids.tolist()[:-1] == [*hole_ids(tokenizer, prefix, suffix), *tokenizer.encode(middle)]
        lengths.add(len(ids) - len(span) - SENTINELS)
    assert max(lengths) == 0


def test_a_share_of_the_holes_is_of_lines_and_without_a_line_it_is_of_tokens():
    tokenizer = byte_tokenizer()
    span = np.array(tokenizer.encode(CODE))
    plain, mixed, lines = (FillInMiddle.of(tokenizer, 1.0, share) for share in (0.0, 0.5, 1.0))
    middles = [parts_of(mixed.rearrange(span, (0, 0, 0, n, 1)), mixed, tokenizer)[1] for n in range(1000)]
    assert 550 < sum("\n" not in middle.rstrip() for middle in middles) < 800  # half, and the short ones of the others
    two = np.array(tokenizer.encode("a = 1\nb = 2\n"))
    broken = np.append(span, tokenizer.encode("é")[0])
    for short in (two, broken):
        assert restored(lines.rearrange(short, (0, 0, 0, 1, 1)).tolist(), lines) == short.tolist()
    assert plain.vocabulary is None


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match=f"fim_lines = {rate} is not allowed; expected 0 to 1"):
        FillInMiddle(0.1, 2, 3, 4, lines=rate)
    with pytest.raises(ValueError, match=f"fim_rate = {rate} is not allowed; expected 0 to 1"):
        FillInMiddle(rate, 2, 3, 4)


def test_sequences_too_short_for_a_hole_are_refused():
    with pytest.raises(ValueError, match="seq_len = 11 is not allowed with fim_rate > 0; expected 12 or more"):
        Batches([np.arange(100)], 0, lambda step: (11, 100), FIM)(0)


def test_a_document_without_bos_is_refused():
    documents = [np.arange(100, 200)]
    with pytest.raises(ValueError, match=r"document 0 is 100 \.\.\. 199, and cannot get a hole; expected BOS 0"):
        Batches(documents, 0, lambda step: (50, 50), FillInMiddle(1.0, 2, 3, 4))(0)
