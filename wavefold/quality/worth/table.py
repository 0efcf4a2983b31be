"""The table of several models: figures with standard errors, the differences of each to the first, a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from wavefold.quality.compare import verdict
from wavefold.quality.statistics import Difference
from wavefold.quality.tables import Table, number
from wavefold.quality.worth.asked import Measure
from wavefold.quality.worth.run import Worth

CLEAR = 2.0
"""Standard errors from which on a model is called better or worse."""
NOTES = {"loops": "Continuations are sampled as the checkpoint says; the rate of greedy ones is in the quality card "
                  "(wavefold quality)."}  # fmt: skip
"""What is said below the table, by measure."""


def differences(old: Worth, new: Worth) -> dict[str, Difference]:
    """Returns the differences of the measures that both models have, of pairs: the cases are the same."""
    return {
        name: Difference(figure, new.figures[name]) for name, figure in old.figures.items() if name in new.figures
    }  # fmt: skip


def table(worths: Sequence[Worth], measures: Sequence[Measure]) -> Table:
    """Returns a row for each measure. `worths`: the old model first."""
    old, *others = worths
    columns = ["measure", "cases", "better", "old", *(f"new{_index(n, others)}" for n in range(len(others)))]
    columns += [f"errors{_index(n, others)}" for n in range(len(others))] if others else []
    rows = []
    for one in measures:
        compared = [differences(old, new).get(one.name) for new in others]
        counted = next((worth.figures[one.name] for worth in worths if one.name in worth.figures), None)
        cases = "-" if counted is None else f"{len(counted.num):,}"
        rows.append((
            one.title, cases, one.better, *(_cell(worth, one.name) for worth in worths), *map(_errors, compared),
        ))  # fmt: skip
    return Table("worth", tuple(columns), rows)


def notes(measures: Sequence[Measure]) -> str:
    """Returns what there is to say about the measures, a line each."""
    return "\n".join(NOTES[one.name] for one in measures if one.name in NOTES)


def verdict_of(old: Worth, new: Worth) -> dict[str, list[str]]:
    """Returns the names of the measures in which the new model is "better", "worse", and "even" (all others)."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "even": []}
    for name, difference in differences(old, new).items():
        said = verdict(difference, CLEAR)
        found[said if said in found else "even"].append(name)
    return found


def verdict_line(old: Worth, new: Worth) -> str:
    """Returns the verdict in one line."""
    found = verdict_of(old, new)
    count = sum(map(len, found.values()))
    parts = [f"{said} on {len(found[said])}{_list(found[said])}" for said in ("better", "worse")]
    return f"{new.label} against {old.label}: of {count} measures {', '.join(parts)}, beyond {CLEAR:g} standard errors"


def lines(worths: Sequence[Worth]) -> list[dict[str, object]]:
    """Returns what is kept of a run, a line for each model and each comparison."""
    old, *others = worths
    found: list[dict[str, object]] = []
    for worth in worths:
        figures = {
            name: {"value": figure.value, "se": figure.values()["se"], "cases": len(figure.num)}
            for name, figure in worth.figures.items()
        }  # fmt: skip
        found.append({"part": "model", "model": worth.identity, "figures": figures, "missing": worth.missing,
                      "seconds": worth.seconds})  # fmt: skip
    for new in others:
        compared = {
            name: {"difference": one.value, "se": one.se, "errors": one.errors}
            for name, one in differences(old, new).items()
        }  # fmt: skip
        found.append({"part": "verdict", "old": old.identity["weights"], "new": new.identity["weights"],
                      "differences": compared, **verdict_of(old, new)})  # fmt: skip
    return found


def _index(place: int, others: Sequence[Worth]) -> str:
    return f" {place + 1}" if len(others) > 1 else ""


def _list(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _cell(worth: Worth, name: str) -> str:
    figure = worth.figures.get(name)
    return "-" if figure is None else f"{number(figure.value)} ± {number(figure.se)}"


def _errors(difference: Difference | None) -> str:
    if difference is None or difference.errors is None:
        return "-"
    said = verdict(difference, CLEAR)
    return f"{difference.errors:+.1f}{f' {said}' if said in ('better', 'worse') else ''}"
