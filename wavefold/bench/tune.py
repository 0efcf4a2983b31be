"""The tuning of this machine: candidates take turns on products, and the usual one stays unless another is faster.

    hint, ahead    one row of x through FP4 and FP8 weights that no cache holds, four through bfloat16: all hints at the
                   usual distance, then all distances for the best hint
    plain_hint     one row of x through bfloat16: all hints
    float_rows     both kinds of products at 1 to 512 rows, where the kernels have both
    few_rows       weights in registers against tiles of decoded ones at 8 to 96 rows

Each winner meets the usual tuning three times more, in turns of their own: so what noise has chosen does not pass. The
best of a few turns counts: other load makes a turn slower and never faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from wavefold.ops.tuning import HINTS, Tuning

Timer = Callable[[Tuning, str, int], float]
"""Seconds of a product of weights in a format with so many rows of x."""
FORMS = ("fp4", "fp8", "bf16")
HINTED = (("fp4", 1), ("fp8", 1), ("bf16", 4))
"""Products that `hint` and `ahead` are chosen by: format, rows."""
PLAIN = (("bf16", 1),)
AHEADS = (1024, 2048, 4096, 8192, 16384, 32768)
FLOAT_ROWS = (1, 2, 4, 8, 16, 64, 512)
FEW_ROWS = (8, 12, 16, 24, 32, 48, 64, 96)
WORTH = 0.02
"""The usual tuning stays unless another one takes this share less time."""
NEVER = 10**9


@dataclass(frozen=True)
class Candidate:
    """A tuning that was timed. `gain` is the share of the usual tuning's time that it saves; below 0 it costs."""

    stage: str
    tuning: Tuning
    gain: float


@dataclass
class Found:
    """A measured tuning beside the usual one, and everything that was timed on the way."""

    usual: Tuning
    chosen: Tuning
    candidates: list[Candidate] = field(default_factory=list)
    full: list[Candidate] = field(default_factory=list)
    """Of a full sweep, gains over the choice, the fastest first."""


def tune(time: Timer, usual: Tuning, two_ways: bool, turns: int, report: Callable[[str], None] = print) -> Found:
    """Returns the tuning that `time` is best with. `two_ways`: the kernels have products of bfloat16 and of float32."""
    found = Found(usual, usual)
    report("hints")
    hints = [usual._replace(hint=hint) for hint in HINTS]
    best = _fastest(time, "hint", hints, HINTED, turns, found)
    if best.hint != "none":
        report("distances")
        aheads = [best._replace(ahead=ahead) for ahead in (*AHEADS, usual.ahead)]
        best = _fastest(time, "ahead", aheads, HINTED, turns, found)
    if best != usual and _confirmed(time, best, usual, HINTED, turns, found):
        found.chosen = best
    report("hints of weights that are not decoded")
    before = found.chosen
    plain = [before._replace(plain_hint=hint) for hint in HINTS]
    best = _fastest(time, "plain_hint", plain, PLAIN, turns, found)
    if best != before and _confirmed(time, best, before, PLAIN, turns, found):
        found.chosen = best
    if two_ways:
        report("float32 or bfloat16")
        _choose_threshold(time, "float_rows", FLOAT_ROWS, turns, found)
    report("rows in registers")
    _choose_threshold(time, "few_rows", FEW_ROWS, turns, found)
    return found


def sweep(time: Timer, found: Found, turns: int, report: Callable[[str], None] = print) -> list[Candidate]:
    """Returns every hint at every distance, timed in the same turns as the choice, the fastest first.

    Gains are over the choice: that of the first is how far the choice is from the best.
    """
    report("every hint at every distance")
    chosen = found.chosen
    every = [chosen._replace(hint=hint, ahead=ahead) for hint in HINTS[1:] for ahead in AHEADS]
    every.append(chosen._replace(hint="none"))
    seconds = _timed(time, [chosen, *every], HINTED, turns)
    candidates = [Candidate("full", tuning, _gain(seconds, tuning, chosen)) for tuning in seconds]
    return sorted(candidates, key=lambda candidate: -candidate.gain)


Seconds = Mapping[Tuning, Mapping[tuple[str, int], float]]


def _timed(time: Timer, tunings: Sequence[Tuning], products: Sequence[tuple[str, int]], turns: int) -> Seconds:
    """Returns the least seconds of each tuning and product (format, rows) over turns that all tunings take part in."""
    seconds = {tuning: dict.fromkeys(products, math.inf) for tuning in tunings}
    for turn in range(turns):
        for product in products:
            order = list(seconds) if turn % 2 == 0 else list(seconds)[::-1]
            for tuning in order:
                seconds[tuning][product] = min(seconds[tuning][product], time(tuning, *product))
    return seconds


def _gain(seconds: Seconds, tuning: Tuning, usual: Tuning) -> float:
    """Returns the share of time saved, as the geometric mean over products."""
    ratios = [math.log(seconds[tuning][product] / usual_s) for product, usual_s in seconds[usual].items()]
    return 1 - math.exp(sum(ratios) / len(ratios))


def _fastest(
    time: Timer, stage: str, tunings: Sequence[Tuning], products: Sequence[tuple[str, int]], turns: int, found: Found
) -> Tuning:
    """Returns the fastest of the tunings by these products; notes all."""
    seconds = _timed(time, [found.usual, *tunings], products, turns)
    candidates = [Candidate(stage, tuning, _gain(seconds, tuning, found.usual)) for tuning in seconds]
    found.candidates += candidates
    return max(candidates, key=lambda candidate: candidate.gain).tuning


def _confirmed(
    time: Timer, best: Tuning, usual: Tuning, products: Sequence[tuple[str, int]], turns: int, found: Found
) -> bool:
    """True if `best` is worth it in each of three rounds, and by more than the rounds differ: else noise has spoken."""
    gains = [_gain(_timed(time, [best, usual], products, turns), best, usual) for _ in range(3)]
    found.candidates += [Candidate("again", best, gain) for gain in gains]
    return min(gains) > max(WORTH, max(gains) - min(gains))


def _choose_threshold(time: Timer, name: str, rows: Sequence[int], turns: int, found: Found) -> None:
    """Chooses the number of rows where one way of multiplying ends and the other begins, and notes each way's gain.

    `few_rows` is the last number of rows of its first way, `float_rows` the first of its second.
    """
    usual = found.chosen
    is_last = name == "few_rows"
    first, second = (96, 1) if is_last else (0, 1)

    def with_value(value: int) -> Tuning:
        return usual._replace(few_rows=value) if is_last else usual._replace(float_rows=value)

    first_way, second_way = with_value(first), with_value(second)
    products = [(form, count) for form in FORMS for count in rows]
    seconds = _timed(time, [first_way, second_way], products, turns)

    def saved(count: int) -> float:
        """Logarithm of the time of the second way over that of the first, a mean over formats."""
        ratios = (math.log(seconds[second_way][form, count] / seconds[first_way][form, count]) for form in FORMS)
        return sum(ratios) / len(FORMS)

    def cost(value: int) -> float:
        """Logarithm of the time with this threshold, over that of the first way throughout."""
        begins = value + 1 if is_last else value or NEVER
        return sum(saved(count) for count in rows if count >= begins)

    for count in rows:
        found.candidates.append(Candidate(f"{name}, {count} rows", second_way, 1 - math.exp(saved(count))))
    values = (1, *rows) if is_last else (0, *rows)
    value = min((getattr(usual, name), *values), key=cost)
    best = with_value(value)
    low, high = sorted((value or NEVER, getattr(usual, name) or NEVER))
    differing = [count for count in rows if (low < count <= high if is_last else low <= count < high)]
    if differing:
        again = [(form, count) for form in FORMS for count in differing]
        if _confirmed(time, best, usual, again, turns, found):
            found.chosen = best
