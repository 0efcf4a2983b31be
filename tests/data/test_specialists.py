"""Specialists: what is held out is never trained, and judges take what means the same and nothing else."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta

import pytest

from wavefold.chat.encoding import encode_chat
from wavefold.chat.tokenizer import Tokenizer
from wavefold.data import corpus
from wavefold.data.specialists import SPECIALISTS, Case, Specialist, cron, dates, specialist, units
from wavefold.locate import DEFAULT_MODEL
from wavefold.train.texts import read_text
from wavefold.waves.group import Group

MISSING = "is not installed: pip install wavefold[specialists]"
cron_descriptor = pytest.importorskip("cron_descriptor", reason=f"cron-descriptor {MISSING}")
pint = pytest.importorskip("pint", reason=f"pint {MISSING}")
pytest.importorskip("croniter", reason=f"croniter {MISSING}")
pytest.importorskip("dateparser", reason=f"dateparser {MISSING}")
NAMES = sorted(SPECIALISTS)


@pytest.fixture(params=NAMES)
def one(request: pytest.FixtureRequest) -> Specialist:
    return specialist(request.param)


def case_of(source: str, answer: str = "") -> Case:
    return Case(source, answer or source, "", "", source)


def test_cases_are_a_function_of_their_arguments(one: Specialist) -> None:
    assert one.cases(3, 40, True) == one.cases(3, 40, True) != one.cases(4, 40, True)
    assert one.cases(3, 40, False)[:20] == one.cases(3, 20, False)


def test_what_is_held_out_is_never_trained(one: Specialist) -> None:
    training, held_out = one.cases(0, 3000, False), one.cases(1, 301, True)
    for cases in (training, held_out):
        assert len({case.question for case in cases}) == len(cases)
    assert not {case.question for case in training} & {case.question for case in held_out}
    assert {case.held_out for case in training} == {""}
    assert Counter(case.held_out for case in held_out) == {"template": 151, "value": 150}
    templates, values = ({getattr(case, name) for case in training} for name in ("template", "value"))
    for case in held_out:
        assert (case.template in templates) <= (case.held_out == "value")
        assert (case.value in values) <= (case.held_out == "template")


def test_every_answer_is_right_and_fits(one: Specialist) -> None:
    tokenizer = Tokenizer.load(DEFAULT_MODEL)
    for case in one.cases(5, 150, False) + one.cases(5, 150, True):
        assert one.judge(case, case.answer) and one.judge(case, f" {case.answer}\n"), case
        assert len(encode_chat(tokenizer, case.chat).ids) < 128, case


@pytest.mark.slow
def test_every_answer_of_a_run_is_right(one: Specialist) -> None:
    cases = one.cases(0, 60_000, False)
    assert [case for case in cases if not one.judge(case, case.answer)] == []
    assert not {case.question for case in cases} & {case.question for case in one.cases(0, 1000, True)}


def test_a_number_that_is_one_higher_is_wrong(one: Specialist) -> None:
    """Every number of every answer; of units the digits of 1% and more, and the exponent."""
    for case in one.cases(6, 60, True):
        for found in re.finditer(r"\d+", case.answer):
            if one.name == "units" and found.start() > 0 and case.answer[found.start() - 1] in ".^":
                continue  # digits below 1%, and the power of the unit
            width = len(found[0])
            mutant = f"{case.answer[: found.start()]}{int(found[0]) + 1:0{width}}{case.answer[found.end() :]}"
            assert not one.judge(case, mutant), (case, mutant)


def test_other_texts_are_wrong_and_no_errors(one: Specialist) -> None:
    case, dice = one.cases(7, 1, False)[0], random.Random(0)
    texts = ["", " ", "\n", "no", "٣", "\0", "9" * 5000, "*" * 5000, "R R * * *", "H H * * *", "r * * * *", "@reboot",
             "9**9**9 m", "1 " + "m" * 400, "1e999 m", "1 m^-9", "nan m", "inf m", "1 degC", "1 in", "1 if", "1 m^",
             "1", "0000-00-00", "2021-02-30", "9999-99-99", "0 0 31 2 *", "*/0 * * * *", "0 0 1#9 * *", "- - - - -",
             case.question, case.answer + " or not", case.answer + case.answer]  # fmt: skip
    signs = "0123456789-*/,.:LW#?@ eEmkgsJPa^²"
    texts += ["".join(dice.choices(signs, k=dice.randint(1, 12))) for _ in range(300)]
    texts += [
        " ".join("".join(dice.choices("0123459*/-,lL#?", k=dice.randint(1, 3))) for _ in range(5)) for _ in range(100)
    ]
    assert not any(one.judge(case, text) for text in texts if text.strip() != case.answer)


@pytest.mark.parametrize(
    ("expression", "same", "other"),
    [("*/15 * * * *",
      ("0,15,30,45 * * * *", "0/15 * * * *", "*/15 0-23 1-31 1-12 0-6", "*/15 * 1-31 * *", "*/15 * ? * *"),
      ("*/15 * * * 1", "15 * * * *", "0-59/16 * * * *", "*/15 0-22 * * *", "*/15 * * * * 0", "*/15 * * *")),
     ("0 9 * * 1-5", ("0 9 * * mon-fri", "0 9 * * MON,TUE,WED,THU,FRI", "00 09 * * 1-5"),
      ("0 9 * * 0-4", "0 9 1-15 * 1-5", "9 0 * * 1-5", "0 9 * * 1-5 0", "0 9 1-30 * 1-5", "0 9 1-31 * 1-5")),
     ("0 9 * * 0", ("0 9 * * 7", "0 9 * * sun", "0 9 * * SUN"), ("0 9 * * 6", "0 9 * * 0#1", "0 9 * * L0")),
     ("0 0 * * *", ("@daily", "@midnight", "0 0 1-31 * *", "0 0 * jan-dec *"), ("@weekly", "0 0 1-30 * *", "@hourly")),
     ("0 0 1 1 *", ("@yearly", "@annually", "0 0 1 jan *"), ("@monthly", "0 0 L 1 *", "0 0 1 1 1")),
     ("0 12 1,15 6-8 *", ("0 12 15,1 6,7,8 *", "0 12 1-15/14 jun-aug *"), ("0 12 1-15 6-8 *", "0 12 1,15 6,8 *"))],
)  # fmt: skip
def test_equal_schedules_are_right(expression: str, same: tuple[str, ...], other: tuple[str, ...]) -> None:
    judge = SPECIALISTS["cron"].judge
    assert [text for text in same if not judge(case_of(expression), text)] == []
    assert [text for text in other if judge(case_of(expression), text)] == []


def test_english_is_cron_descriptors_and_names_one_schedule() -> None:
    one, dice = SPECIALISTS["cron"], random.Random(1)
    drawn: dict[str, Case] = {}
    for _ in range(1500):
        case = one.write(*one.draft(dice), dice)
        first = drawn.setdefault(case.question, case)
        assert one.judge(first, case.answer), (first, case)
    for case in list(drawn.values())[:60]:
        phrased = {
            str(cron_descriptor.ExpressionDescriptor(case.answer, cron_descriptor.Options(
                casing, verbose=verbose, use_24hour_time_format=hours_24, locale_code="en_US")))
            for casing in cron_descriptor.CasingTypeEnum for verbose in (False, True) for hours_24 in (False, True)
        }  # fmt: skip
        assert case.question in phrased


@pytest.mark.parametrize("step", ["*/7 * * * *", "*/45 * * * *", "0 */5 * * *"])
def test_steps_with_unclear_english_are_never_drawn(step: str) -> None:
    minute, hour = step.split()[:2]
    for name, field in (("minute", minute), ("hour", hour)):
        if field.startswith("*/"):
            assert int(field[2:]) not in cron.STEPS[name]
    assert all(60 % step == 0 for step in cron.STEPS["minute"]) and all(24 % step == 0 for step in cron.STEPS["hour"])


@pytest.mark.parametrize("template", dates.TEMPLATES)
def test_every_form_of_a_date_is_read(template: str) -> None:
    one, dice = SPECIALISTS["dates"], random.Random(template)
    for _ in range(3):
        day = date(2000, 1, 1) + timedelta(dice.randrange(9000))
        day = day.replace(day=dice.randint(13, 28))
        case = one.write(template, day.isoformat(), dice)
        assert one.judge(case, day.isoformat()), case
        assert not one.judge(case, (day + timedelta(1)).isoformat())
        assert not one.judge(case, case.question) and not one.judge(case, f"{day:%Y%m%d}")


def test_a_text_without_a_year_is_no_date() -> None:
    judge = SPECIALISTS["dates"].judge
    assert not judge(case_of("5 May"), "2024-05-05") and judge(case_of("5 May 2024"), "2024-05-05")


@pytest.mark.parametrize("unit", [*units.TABLES, *units.POINTS], ids=lambda unit: unit.one)
def test_pint_reads_every_spelling_as_the_factor_says(unit: units.Unit) -> None:
    registry = pint.UnitRegistry()
    for spelling in (unit.one, unit.many, *unit.symbols):
        found = registry.parse_expression(f"2.5 {spelling}").to(unit.si)
        assert found.magnitude == pytest.approx(2.5 * unit.factor, rel=1e-12)
    assert registry.parse_expression(f"1 {unit.si}").to_base_units().magnitude == 1
    for word in (unit.spelled, unit.si):
        assert registry.parse_units(word) == registry.parse_units(unit.si)


def test_equal_quantities_are_right() -> None:
    judge, miles, power = SPECIALISTS["units"].judge, case_of("3.5 miles"), case_of("2 kWh")
    right = ("5632.704 m", "5632.704m", "5.63e3 m", "5.6e3 meters", "5630 metre", "+5.63E+03 m")
    wrong = ("5.63 km", "5.63e2 m", "5.5e3 m", "5.7e3 m", "-5.63e3 m", "5.63e3", "5.63e3 s", "5,630 m", "3.5 miles",
             "5.63e3 m m", "5.63e3 m^2", "563000 cm")  # fmt: skip
    assert [text for text in right if not judge(miles, text)] == []
    assert [text for text in wrong if judge(miles, text)] == []
    assert judge(power, "7.2e6 J") and judge(power, "7.2e6 N*m") and judge(power, "7.2e6 kg m^2/s^2")
    assert not judge(power, "7.2e6 W") and not judge(power, "7.2e3 kJ")


def test_a_run_reads_chats_of_which_answers_are_learned(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(corpus, "TRAINING_CASES", 60)
    monkeypatch.setattr(corpus, "HELD_OUT_CASES", 20)
    text = read_text("specialist:units", tmp_path, 3072, DEFAULT_MODEL, Group(), 128)
    assert (len(text.train), len(text.held_out)) == (60, 20)
    case, tokens = SPECIALISTS["units"].cases(0, 60, False)[0], text.train[0]
    assert text.tokenizer.decode(tokens.ids[tokens.learned][:-1].tolist()) == case.answer
    assert max(text.train.lengths) < 128


def test_other_names_and_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="specialist 'roman' is not known; expected one of cron, dates, units"):
        corpus.load_corpus("specialist:roman")
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"count = {count} is not allowed"):
            SPECIALISTS["units"].cases(0, count, False)


def test_more_cases_than_there_are_is_an_error(monkeypatch) -> None:
    one = units.Units()
    monkeypatch.setattr(one, "draft", lambda dice: ("{q}", f"{dice.randint(2, 9)} mile"))
    with pytest.raises(ValueError, match=r"units: has no 50 different cases; found \d+ of 50"):
        one.cases(0, 50, False)


@pytest.mark.parametrize(
    ("package", "use"),
    [("cron_descriptor", lambda: SPECIALISTS["cron"].cases(0, 1, False)),
     ("croniter", lambda: SPECIALISTS["cron"].judge(case_of("* * * * *"), "* * * * *")),
     ("dateparser.date", lambda: SPECIALISTS["dates"].judge(case_of("5 May 2021"), "2021-05-05")),
     ("pint", lambda: SPECIALISTS["units"].judge(case_of("1 m"), "1 m"))],
)  # fmt: skip
def test_a_missing_package_is_named(package: str, use: Callable[[], object], monkeypatch) -> None:
    caches = (cron._describer, dates._parser, units._pint)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"needs .*pip install 'wavefold\[specialists\]'"):
        use()
