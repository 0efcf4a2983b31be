"""Stop texts: found whatever the pieces, never shown in part."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from wavefold.engine.stops import StopTexts

TEXT = st.text("abc", max_size=30)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


def by_definition(text: str, stops: list[str]) -> str:
    """The text grows by one character until it ends in a stop, the longest of them."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


@given(TEXT, STOPS, st.lists(st.integers(0, 30), max_size=5))
def test_the_pieces_do_not_matter(text: str, stops: list[str], cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    texts, shown = StopTexts(stops), ""
    for first, last in pairwise(places):
        shown += texts.push(text[first:last])
        assert not any(stop in shown for stop in stops)
        if texts.found:
            break
    shown += texts.finish()
    assert shown == by_definition(text, stops)
    assert texts.num_shown == len(shown)
    assert texts.found == any(stop in text for stop in stops)


def test_no_more_is_held_back_than_may_become_a_stop() -> None:
    texts = StopTexts(["</s>", "\n\n"])
    assert [texts.push(piece) for piece in ("a<", "/", "b\n", "c<<", "/s", ">d")] == ["a", "", "</b", "\nc<", "", ""]
    assert texts.found and texts.finish() == ""
