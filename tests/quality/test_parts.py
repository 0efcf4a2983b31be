"""Parts of the card against what is known beforehand: loops that were written, validity by hand, needles, templates."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from wavefold.chat.encoding import encode_chat
from wavefold.chat.special_tokens import DSML
from wavefold.chat.template import rendered
from wavefold.chat.tokenizer import Tokenizer
from wavefold.chat.tokenizer_config import CHAT_TEMPLATE
from wavefold.chat.tool_calls import ToolCall, calls_text
from wavefold.locate import default_model
from wavefold.quality.cases import CHATS, FORM_CASES, TOOL_CASES, TOOLS
from wavefold.quality.chats import Chats
from wavefold.quality.forms import Forms, begins_valid, is_valid
from wavefold.quality.loops import loops
from wavefold.quality.needles import CANDIDATES, Needles
from wavefold.quality.passages import Passage, load_texts, passages_of
from wavefold.quality.progress import Clock
from wavefold.quality.reading import Reading
from wavefold.quality.settings import Settings
from wavefold.quality.subject import Ids
from wavefold.quality.tools import SCHEMAS, Tools, is_call

COMMON = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "add_generation_prompt": False}


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 4, 5, 4, 5, 4, 5], True),
        ([9, 9, 9, 9, 9, 9], True),
        ([1, 2, 3, 1, 2, 3, 1, 2, 3], True),
        ([1, 2, 3, 1, 2, 3, 1, 2, 4], False),
        ([4, 5, 4, 5, 4, 5, 1], False),
        ([7, 8, 7, 8], False),
        ([5, 5, 5], False),
        ([], False),
    ],
)
def test_a_loop_is_a_phrase_that_stands_three_times_at_the_end(tokens, expected):
    assert loops(tuple(tokens)) is expected


@pytest.mark.parametrize("case", FORM_CASES, ids=lambda case: case.name)
def test_right_answers_are_valid_and_others_are_not(case):
    for value in (case.answer, case.example):
        assert is_valid(json.dumps(value), case.schema)
        assert begins_valid(f"```json\n{json.dumps(value)}\n``` and more", case.schema)
    assert not is_valid(json.dumps({"other": 1}), case.schema)
    assert not is_valid(json.dumps(case.answer)[:-1], case.schema) or not isinstance(case.answer, dict | list)
    assert not begins_valid(f"So: {json.dumps(case.answer)}", case.schema)


def test_calls_are_judged_by_form_name_and_arguments():
    right = [ToolCall("convert", {"amount": 250, "to": "JPY"})]
    assert is_call("I look." + calls_text(right))
    assert not is_call(calls_text([ToolCall("convert", {"amount": "much", "to": "JPY"})]))
    assert not is_call(calls_text([ToolCall("convert", {"amount": 3})]))
    assert not is_call(calls_text([ToolCall("invert", {"amount": 3, "to": "JPY"})]))
    assert not is_call("250 euros are 40,000 yen.")
    assert {case.tool for case in TOOL_CASES} == {tool["function"]["name"] for tool in TOOLS} == set(SCHEMAS)


def test_a_needle_lies_where_it_should_and_only_the_right_one_is_asked_for():
    passages = passages_of(load_texts(None), 36000)
    needles = Needles(passages, Settings())
    for form in ("prose", "code"):
        text, values = needles.text(2048, 0.4, form)
        assert len(values) == len(set(values)) == CANDIDATES
        assert text.count(str(values[0])) == 1 and all(str(value) in text for value in values[:4])
        assert not any(f" {value}" in text for value in values[4:])
        assert 0.3 < text.index(f" {values[0]}") / len(text) < 0.5
        line = next(line for line in text.splitlines() if str(values[0]) in line)
        assert line.startswith(text.splitlines()[-1]) and 5000 < len(text.encode()) < 7500


def test_the_shipped_template_writes_v4s_encoding():
    tokenizer = Tokenizer.load(default_model())
    texts = rendered(CHAT_TEMPLATE, [{"messages": list(chat), **COMMON} for chat in CHATS])
    ids = [tokenizer.encode(text, allow_special=True) for text in texts]
    assert ids == [encode_chat(tokenizer, chat).ids for chat in CHATS]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception('no') }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 9999999999 }}",
        "{% if",
        "x" * (1 << 19),
    ],
    ids=["classes", "change", "globals", "refusal", "endless", "large", "syntax", "long"],
)
def test_a_template_reaches_nothing_and_ends(template, monkeypatch):
    monkeypatch.setattr("wavefold.chat.template.SECONDS", 2)
    with pytest.raises(ValueError, match="chat template"):
        rendered(template, [{"messages": [], **COMMON}])


def test_passages_hold_the_text_and_end_with_lines(tmp_path):
    (tmp_path / "a.md").write_text("line of a\n" * 3000)
    (tmp_path / "b.md").write_text("x" * 40000)
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe" * 500)
    passages = passages_of(load_texts(tmp_path), 1 << 20)
    assert {passage.kind for passage in passages} == {"a.md", "b.md"}
    for name in ("a.md", "b.md"):
        assert "".join(p.text for p in passages if p.kind == name) == (tmp_path / name).read_text()
    assert max(passage.num_bytes for passage in passages) <= 12288
    assert all(p.text.endswith("\n") for p in passages if p.kind == "a.md")
    short = passages_of(load_texts(tmp_path), 8000)
    assert 7000 < sum(passage.num_bytes for passage in short) < 9000


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\xff" * 4000)
    with pytest.raises(ValueError, match="holds no text"):
        load_texts(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        load_texts(tmp_path / "none")


def test_shipped_texts_are_a_few_tens_of_kilobytes():
    texts = dict(load_texts(None))
    assert sorted(texts) == ["code", "dialogue", "prose", "tables"]
    assert all(5000 < len(text.encode()) < 12288 for text in texts.values())
    assert isinstance(passages_of(list(texts.items()), 36000)[0], Passage)


def test_a_model_without_the_marks_of_chats_is_told_from_one_that_fails():
    """Parts that cannot be measured say so, by the tokens that are missing."""
    subject = SimpleNamespace(tokenizer=SimpleNamespace(has=lambda token: token != DSML))
    assert Tools(Settings()).problem(subject) == f"the tokenizer lacks {DSML}"
    assert Chats(Settings()).problem(subject) == ""


@pytest.mark.parametrize("part", [Forms, Tools])
def test_draws_of_a_case_are_no_cases(part):
    """By hand: cases are off by 1, 0 and -1 of 6 answers, so that the error is sqrt(3/2 * 2/36)."""
    draws = [[True, True], [True, False], [False, False]]
    figures = part(Settings()).figures([{"free": one, "held": one, "nats": [1.0], "right": 0.5} for one in draws])
    for figure in figures[:2]:
        assert (figure.value, figure.num, figure.den) == (0.5, (2, 1, 0), (2, 2, 2))
        assert figure.se == pytest.approx(math.sqrt(1 / 12))


def test_turns_and_draws_of_a_chat_are_one_group():
    """By hand, for 1 of 1 and 0 of 3 marks: both chats are off by 3/16, so that the error is sqrt(2/1 * 2) * 3/16."""
    common = {"template": False, "problem": "", "same": False}
    results = [
        {**common, "end_marks": [True], "end_nats": [2.0], "answers": [[4.0, 2]], "stops": [True, False]},
        {**common, "end_marks": [False] * 3, "end_nats": [1.0] * 3, "answers": [[2.0, 2]] * 3, "stops": [False] * 2},
    ]
    marks, stops, answers, ends = Chats(Settings()).figures(results)
    assert (marks.value, marks.se) == (0.25, pytest.approx(3 / 8))
    assert (stops.value, stops.se) == (0.25, pytest.approx(0.25))
    assert (answers.value, answers.se) == (1.25, pytest.approx(3 / 8))
    assert (ends.value, ends.se) == (1.25, pytest.approx(3 / 8))


def test_blocks_and_rows_follow_bytes():
    """ends[i]: bytes before row i's prediction. Rows of the bytes 3 to 9 are those of tokens inside them."""
    ids = Ids([0, 1, 2, 3, 4], [0, 3, 5, 9, 12])
    assert list(ids.rows(0, 12)) == [0, 1, 2, 3]
    assert list(ids.rows(3, 9)) == [1, 2]
    assert list(ids.rows(4, 9)) == [2]
    assert list(ids.rows(4, 8)) == []


def test_tails_end_where_the_passage_ends_and_cut_no_character():
    passage = Passage("a", 0, "ü" * 2000)
    units = Reading([passage], None).units()
    assert [unit.data[1] for unit in units] == ["", *(f"after {context:,} bytes" for context in (96, 384, 1536))]
    for unit in units[1:]:
        _, _, text, first = unit.data
        assert passage.text.endswith(text) and len(text.encode()) - first == 768


def test_time_left_follows_how_right_the_estimates_were(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("wavefold.quality.progress.time.monotonic", lambda: now[0])
    heard = []
    clock = Clock(10.0, lambda share, left: heard.append((share, left)))
    now[0] += 8  # twice as long as the unit's estimate of 4
    clock.done(4)
    assert heard == [(0.4, 12.0)]
