"""A finding of a check, and the card of all findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "skipped"]
MOST_NAMES = 4
OF_THE_MACHINE = "a fault of this processor, its memory or this program, not of the file: run again; then report it"
"""The advice where a file is right and what computes with it is not."""


@dataclass(frozen=True)
class Finding:
    """`part`: the layer or part of the model, or of the machine. `advice`: what to do, of a failure or a skipped check.

    `check` is the name of the check, which `examine` fills in.
    """

    part: str
    status: Status
    text: str
    advice: str = ""
    check: str = ""


@dataclass
class Card:
    """All findings about a file."""

    path: str
    against: str | None
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == "fail"]

    @property
    def is_healthy(self) -> bool:
        """True if nothing failed."""
        return not self.failures

    def values(self) -> dict[str, Any]:
        """Returns the card for a JSON file."""
        return {"file": self.path, "against": self.against, "healthy": self.is_healthy, "seconds": self.seconds,
                "findings": [asdict(finding) for finding in self.findings]}  # fmt: skip


def passed(part: str, text: str) -> Finding:
    return Finding(part, "pass", text)


def failed(part: str, text: str, advice: str) -> Finding:
    return Finding(part, "fail", text, advice)


def skipped(part: str, text: str, advice: str = "") -> Finding:
    return Finding(part, "skipped", text, advice)


def listed(names: Sequence[str]) -> str:
    """Returns the first few names, and how many there are beside them."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
