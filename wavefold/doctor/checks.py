"""The list of checks, in the order in which they are run, and the run.

A check is a function of the patient that yields findings. What it needs is said here: a file whose structure is right
("refs"), a model that can be loaded ("model"), another file ("against"). Where that is missing it is skipped.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from wavefold.doctor.against import against
from wavefold.doctor.finding import Card, Finding, failed, passed, skipped
from wavefold.doctor.layers import layers
from wavefold.doctor.likelihood import likelihood, parts, rope
from wavefold.doctor.machine import disk, memory
from wavefold.doctor.patient import Patient
from wavefold.doctor.products import products
from wavefold.doctor.profile import profile
from wavefold.doctor.runs import runs, streamed
from wavefold.doctor.siblings import siblings
from wavefold.doctor.structure import structure
from wavefold.doctor.values import values
from wavefold.doctor.vocabulary import template, tokenizer
from wavefold.system import Notice


class Check(NamedTuple):
    """`needs`: attributes of the patient that must not be None. `computes`: with its values, which must be numbers."""

    name: str
    run: Callable[[Patient], Iterator[Finding]]
    needs: tuple[str, ...] = ()
    computes: bool = False


def load(patient: Patient) -> Iterator[Finding]:
    """The model can be opened."""
    try:
        patient.open()
    except ValueError as error:
        yield failed("model", f"cannot be loaded: {error}", "see the findings above; download or convert it again")
        return
    yield passed("model", patient.described())


CHECKS = (
    Check("structure", structure),
    Check("profile", profile, ("config",)),
    Check("tokenizer", tokenizer),
    Check("template", template),
    Check("load", load, ("refs", "config")),
    Check("values", values, ("refs", "config")),
    Check("likelihood", likelihood, ("model",), True),
    Check("siblings", siblings, ("refs", "config"), True),
    Check("products", products, ("model",), True),
    Check("layers", layers, ("model",), True),
    Check("runs", runs, ("model",), True),
    Check("streamed", streamed, ("model",), True),
    Check("memory", memory),
    Check("disk", disk, ("refs",)),
    Check("against", against, ("refs", "config")),
    Check("rope", rope, ("model",), True),
    Check("parts", parts, ("model",), True),
)
"""Whatever may be cut short for time comes last."""
LACKING = {
    "config": "the configuration could not be read (see structure)",
    "refs": "the structure is wrong or could not be read (see structure)",
    "model": "the model could not be opened (see load)",
}
"""Why a check has nothing to look at, by what it needs."""
OF_TENSORS = ("values", "siblings", "against")
"""Checks that find wrong tensors."""


def examine(
    patient: Patient, on_check: Callable[[str, int, int], None] = lambda name, done, of: None,
    checks: Sequence[Check] = CHECKS,
) -> Card:  # fmt: skip
    """Returns the card of the checks. `on_check(name, done, of)` is told before each of them.

    An error inside a check is a failure of it. Raises ValueError for an `against` that is no model.
    """
    card = Card(str(patient.path), None if patient.against is None else str(patient.against))
    began = time.monotonic()
    for number, check in enumerate(checks):
        on_check(check.name, number, len(checks))
        found = [replace(finding, check=check.name) for finding in _findings(check, patient)]
        patient.is_sick |= check.name in OF_TENSORS and any(finding.status == "fail" for finding in found)
        card.findings += found
    card.seconds = round(time.monotonic() - began, 1)
    return card


def _findings(check: Check, patient: Patient) -> Iterator[Finding]:
    lacking = [need for need in check.needs if getattr(patient, need) is None]
    if lacking:
        yield skipped(check.name, LACKING[lacking[0]], "see the failures above")
        return
    if check.computes and patient.garbled:
        yield skipped(check.name, f"the file's values are wrong: see {patient.garbled}",
                      "mend the file, and run again")  # fmt: skip
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            yield from check.run(patient)
    except (ValueError, RuntimeError, OSError, ArithmeticError, LookupError) as error:
        yield failed(check.name, f"ended with {type(error).__name__}: {error}",
                     "a fault of the file that no other check names, or of this program: report it")  # fmt: skip
