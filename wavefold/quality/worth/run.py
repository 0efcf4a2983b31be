"""A run of the measures: models one after another, and every unit that is done is kept, so that a killed run goes on.

WORK/NAME-DIGEST/MEASURE/UNIT.json     DIGEST: of weights, tokenizer, template, sampling defaults and arithmetic
                                       UNIT: its first case, and a digest of its cases
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wavefold.atomic import holding, write_json
from wavefold.chat import tokenizer_of
from wavefold.config import read_config
from wavefold.engine.defaults import generation_defaults
from wavefold.locate import model_path
from wavefold.quality.part import Result, Unit
from wavefold.quality.progress import Clock, measured_rates
from wavefold.quality.settings import Settings
from wavefold.quality.statistics import Figure
from wavefold.quality.subject import Subject, identity_of
from wavefold.quality.worth.asked import Measure, digest_of

Told = Callable[[str, float, float], None]
"""Hears what is measured, the share that is done of all that was left, and the seconds left."""


class Worth(NamedTuple):
    """What was measured of a model, by measure: figures, or why there is none (`missing`), and results of units."""

    identity: dict[str, Any]
    figures: dict[str, Figure]
    missing: dict[str, str]
    results: dict[str, list[Result]]
    seconds: float

    @property
    def label(self) -> str:
        return f"{self.identity['name']} {self.identity['weights'][:8]}"


def measure(path: Path, measures: Sequence[Measure], work: Path, settings: Settings, told: Told) -> Worth:
    """Measures what the folder lacks. Raises ValueError for a model without a tokenizer, and for a damaged file."""
    place = model_path(path)
    tokenizer = tokenizer_of(place)
    if tokenizer is None:
        raise ValueError(f"{place}: holds no tokenizer that can be used; the measures are about texts")
    identity = identity_of(place, tokenizer)
    defaults = generation_defaults(place, read_config(place)[0].vocab_size)
    digest = digest_of([{**identity, "name": ""}, repr(defaults), settings.values()])
    folder = work / f"{place.name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with holding(folder / ".lock"):
        _measure_left(place, measures, folder, settings, told)
    results = {one.name: [_read(_place(folder, one, unit)) for unit in one.units()] for one in measures}
    missing: dict[str, str] = {}
    figures: dict[str, Figure] = {}
    for one in measures:
        if problem := next((result["missing"] for result in results[one.name] if "missing" in result), ""):
            missing[one.name] = problem
        elif (figure := one.figure(results[one.name])) is not None:
            figures[one.name] = figure
        else:
            missing[one.name] = "nothing could be counted"
    seconds = sum(result["seconds"] for one in results.values() for result in one)
    return Worth(identity, figures, missing, results, seconds)


def _measure_left(place: Path, measures: Sequence[Measure], folder: Path, settings: Settings, told: Told) -> None:
    """Measures the units that no file has, and writes each as it is done."""
    left = [(one, unit) for one in measures for unit in one.units() if not _place(folder, one, unit).exists()]
    if not left:
        return
    subject = Subject(place, settings)
    try:
        rates = measured_rates(subject)
        name = left[0][0].name
        clock = Clock(sum(rates.seconds(unit) for _, unit in left), lambda share, s: told(name, share, s))
        told(name, 0.0, clock.left)
        for one, unit in left:
            name, began = one.name, time.monotonic()
            problem = one.problem(subject)
            result = {"missing": problem} if problem else one.measure(subject, unit)
            target = _place(folder, one, unit)
            target.parent.mkdir(exist_ok=True)
            write_json(target, {**result, "seconds": time.monotonic() - began})
            clock.done(rates.seconds(unit))
    finally:
        subject.close()


def _place(folder: Path, one: Measure, unit: Unit) -> Path:
    return folder / one.name / f"{unit.key}.json"


def _read(path: Path) -> Result:
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove it and run again") from None
    return result
