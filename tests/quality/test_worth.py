"""`bench/worth.py`'s table: errors against scipy's, the verdict by hand, and a run over the model that ships."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from wavefold.data.corpus import Corpus, Document, load_corpus
from wavefold.data.exercises.functions import Function
from wavefold.data.exercises.rewrites import rename
from wavefold.quality.settings import Settings
from wavefold.quality.statistics import Figure, figure_of, share_of
from wavefold.quality.worth import drafts, measures, run, table
from wavefold.quality.worth.asked import Answer, Asked
from wavefold.quality.worth.bits import bounded
from wavefold.quality.worth.measures import Completions, Holes, Loops, NextLines, Rewrites, Stops
from wavefold.quality.worth.plan import NAMES, Counts, planned
from wavefold.quality.worth.run import Worth
from wavefold.quality.worth.samples import samples
from wavefold.quality.worth.sources import Head, Hole, NextLine

NEW = 24
"""Tokens of an answer of the model that ships, which seldom ends one."""
HEAD = Head("", "def f(n):\n    a = n")
SOURCE = "def half(size):\n    return size // 2"
RENAME = rename(Function("half.py half", SOURCE, SOURCE), random.Random(0))
assert RENAME is not None


def worth(name: str, **figures: Figure | None) -> Worth:
    identity = {"name": name, "weights": f"{name}-weights"}
    return Worth(identity, {key: one for key, one in figures.items() if one}, {}, {}, 1.0)


def shares(name: str, cases: list[bool], better: str = "high") -> Figure | None:
    return share_of(name, name, "", cases, better)


def test_answers_of_a_function_are_one_case() -> None:
    """Five seeds of a function depend on each other: the error is that of the functions' means."""
    cases = [HEAD] * 6
    right, wrong = ["\n    return n\n", "length", []], ["\n    return (\n", "length", []]
    counts = [5, 0, 1, 5, 2, 0]
    results = [{"answers": [right if draw < count else wrong for count in counts for draw in range(5)]}]
    figure = Completions(cases, 0).figure(results)
    assert figure is not None and figure.value == 13 / 30
    assert figure.se == pytest.approx(stats.sem([count / 5 for count in counts]))


@pytest.mark.parametrize(
    ("measure", "right", "wrong"),
    [
        (NextLines([NextLine("def f(n):", "    return n")]),
         [["\n    return n\n", "length"], ["\n    return n", "eos"]],
         [["\n    return n", "length"], ["\n    return m\n", "length"], ["", "eos"]]),
        (Holes([Hole("span", "x = ", "1", "\n")]), [["1", "eos"]], [["1", "length"], ["2", "eos"]]),
        (Rewrites([RENAME]), [[RENAME.answer, "eos"]], [[SOURCE, "eos"], ["", "eos"]]),
        (Stops(["What?"], 0), [["That.", "eos"], ["That.", "stop"]], [["That", "length"], ["", "eos"]]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_measures_count_right_answers(measure: Asked, right: list[list[str]], wrong: list[list[str]]) -> None:
    for answers, expected in ((right, 1), (wrong, 0)):
        for text, reason in answers:
            figure = measure.figure([{"answers": [[text, reason, []]]}])
            assert figure is not None and figure.value == expected, (text, reason)


def test_loops_are_counted() -> None:
    measure = Loops(["x = 1"], 0)
    assert measure.judged("x = 1", Answer("", "length", [1, 2, 3, 2, 3, 2, 3]))
    assert not measure.judged("x = 1", Answer("", "eos", [1, 2, 3, 2, 3, 2, 3]))  # it ended
    assert not measure.judged("x = 1", Answer("", "length", [1, 2, 3, 4, 5, 2, 3]))


def test_differences_are_of_pairs_and_a_verdict_needs_two_errors() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(400) < 0.3
    flips = rng.random(400)
    better, even = first | (flips < 0.05), first ^ (flips < 0.02)
    bits = rng.normal(1.2, 0.3, 30)
    cases = first.tolist()
    old = worth("old", a=shares("a", cases), b=shares("b", cases), c=shares("c", cases, "low"),
                d=figure_of("d", "d", "", [(value, 1) for value in bits], "low"), e=shares("e", [True]))  # fmt: skip
    fewer = [(value - 0.1 + rng.normal(0, 0.02), 1) for value in bits]
    new = worth("new", a=shares("a", better.tolist()), b=shares("b", even.tolist()),
                c=shares("c", better.tolist(), "low"),
                d=figure_of("d", "d", "", fewer, "low"))  # fmt: skip
    found = table.differences(old, new)
    assert list(found) == ["a", "b", "c", "d"]
    for name, values in (("a", better), ("b", even)):
        expected = stats.ttest_rel(values.astype(float), first.astype(float))
        assert found[name].errors == pytest.approx(expected.statistic)
    gained = int((better & ~first).sum())
    assert found["a"].se == pytest.approx(math.sqrt(gained - gained**2 / 400) / math.sqrt(400 * 399), rel=1e-9)
    assert table.verdict_of(old, new) == {"better": ["a", "d"], "worse": ["c"], "even": ["b"]}
    line = table.verdict_line(old, new)
    assert "of 4 measures better on 2 (a, d), worse on 1 (c), beyond 2 standard errors" in line
    assert "greedy" in table.notes([Loops(["x"], 0)]) and not table.notes([Stops(["What?"], 0)])
    assert table.verdict_of(old, old) == {"better": [], "worse": [], "even": ["a", "b", "c", "d", "e"]}


def test_documents_of_a_large_corpus_are_drawn_whole() -> None:
    documents = [Document(f"{number}.py", "x" * number) for number in range(1, 101)]
    chosen = bounded(documents, 1000, 0)
    assert 900 < sum(len(one.text) for one in chosen) <= 1000 and chosen == bounded(documents, 1000, 0)
    assert bounded(documents, 5050, 0) == documents and len(bounded(documents[-1:], 5, 0)) == 1


def test_rewrites_are_asked_by_turns_and_by_the_seed() -> None:
    """A function with an annotation and a docstring allows all kinds, one without allows a new name alone."""
    many = "def f{0}(size: int):\n    {1}total{0} = size\n    other = total{0}\n    return other\n\n\n"
    text = "".join(many.format(number, '"""Return the size."""\n    ' * (number < 2)) for number in range(6))
    corpus = Corpus("few", (), (Document("a.py", text.replace("4(size: int", "4(size")), Document("a.md", text)))

    def asked(seed: int) -> list[tuple[str, str]]:
        (measure,) = planned(corpus, None, Counts(rewrites=10), seed, ["rewrites"])
        assert isinstance(measure, Rewrites)
        return [(case.kind, case.question) for case in measure.cases]

    assert [kind for kind, _ in asked(0)] == [*("rename", "annotate", "docstring") * 2, *("rename", "annotate") * 2]
    assert asked(0) == asked(0) != asked(1)


def test_a_plan_refuses_what_it_cannot_do() -> None:
    corpus = Corpus("few", (), (Document("a.py", "x = 1\n"),))
    with pytest.raises(ValueError, match="hold no case for completions"):
        planned(corpus, None, Counts(), 0, ["completions"])
    with pytest.raises(ValueError, match="measures = speed are not allowed"):
        planned(corpus, None, Counts(), 0, ["speed"])
    with pytest.raises(ValueError, match="holes = 0 is not allowed"):
        Counts(holes=0)


def test_the_model_that_ships_is_measured_and_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load_corpus("stdlib")
    packages = Corpus("packages", (), (Document("a.py", "import os\n\nprint(os.name)\n"),))
    corpus = Corpus("stdlib", (), tuple(one for one in corpus.held_out if one.name in ("getopt.py", "py_compile.py")))
    counts = Counts(3, 2, 3, 3, 3, 3, 3, 3, 5000)
    for module, name in ((measures, "CHAT_TOKENS"), (measures, "ANSWER_TOKENS"), (drafts, "NEW_TOKENS")):
        monkeypatch.setattr(module, name, NEW)
    monkeypatch.setattr(Completions, "max_tokens", NEW)
    planned_ones = planned(corpus, packages, counts, 0)
    assert [measure.name for measure in planned_ones] == list(NAMES)
    heard: list[tuple[str, float, float]] = []

    def measured() -> Worth:
        return run.measure(None, planned_ones, tmp_path, Settings(), lambda *said: heard.append(said))

    first = measured()
    assert set(first.figures) == set(NAMES) and not first.missing
    assert {name: len(figure.num) for name, figure in first.figures.items()} == {
        name: 1 if name in ("held_out", "packages") else 3 for name in NAMES
    }
    assert 0.5 < first.figures["held_out"].value < 2.5 and sum(first.figures["completions"].den) == 6
    right, tried = (sum(part) for part in (first.figures["drafts"].num, first.figures["drafts"].den))
    assert 0 < right < tried and 3 * (NEW - 2) <= right + tried <= 3 * (NEW - 1)  # of a step, of a right guess
    assert heard[-1][1] == pytest.approx(1) and heard[-1][2] == 0

    (file,) = tmp_path.glob("*/holes/*.json")
    file.unlink()
    heard.clear()
    again = measured()
    assert {name for name, _, _ in heard} == {"holes"}
    assert table.lines([again])[0]["figures"] == table.lines([first])[0]["figures"]  # batch-invariant, to the bit
    monkeypatch.setattr(run, "Subject", None)  # nobody opens a model
    assert measured().seconds == again.seconds
    text = samples([again, again], planned_ones)
    assert text.count("\n### ") == 15 and text.count("ended by") == 15
    assert json.loads(json.dumps(table.lines([again, again])))[2]["better"] == []
    assert len(table.table([again, again], planned_ones).rows) == 9
    file.write_text("{")
    with pytest.raises(ValueError, match="remove it and run again"):
        measured()
