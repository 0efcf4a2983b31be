"""Figures with standard errors: ratios of sums over groups of tokens, or over cases.

    value = sum(num) / sum(den)          nats a token: num = nats of a block of text, den = its tokens

Tokens of a block depend on each other, so blocks are what is counted, by the linearized variance of a ratio (Cochran,
Sampling Techniques, 1977, section 6.3). The draws of a case depend on each other too, so a case is one group of them.
Where every case is alike the variance would be 0: a share k / n of cases has sqrt(p (1 - p) / (n + 4)) at
p = (k + 2) / (n + 4) in its place (Agresti and Coull, 1998), and so has any share with one answer to a case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Figure:
    """A figure of one part. `of`: which texts, positions, lengths; "all" for all of them. `num`, `den`: by group.

    `better`: "low", "high" or "" where neither is. `is_share`: `num` of the `den` answers of a group are right.
    """

    part: str
    name: str
    of: str
    num: tuple[float, ...]
    den: tuple[float, ...]
    better: str = ""
    is_share: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        return self.part, self.name, self.of

    @property
    def value(self) -> float:
        return math.fsum(self.num) / math.fsum(self.den)

    @property
    def se(self) -> float:
        """The standard error; NaN for one group, which says nothing about others."""
        total, right = math.fsum(self.den), math.fsum(self.num)
        alike = all(num * total == right * den for num, den in zip(self.num, self.den, strict=True))
        if self.is_share and (set(self.den) == {1.0} or (alike and len(self.num) > 1)):
            return agresti_coull(right * len(self.num) / total, len(self.num))
        return _spread(self._residuals())

    def _residuals(self) -> list[float]:
        total, value = math.fsum(self.den), self.value
        return [(num - value * den) / total for num, den in zip(self.num, self.den, strict=True)]

    def values(self) -> dict[str, object]:
        """For JSON. An error that is not known is null."""
        se = self.se
        return {
            "part": self.part, "figure": self.name, "of": self.of, "value": self.value,
            "se": None if math.isnan(se) else se, "groups": len(self.num), "better": self.better,
            "is_share": self.is_share, "num": list(self.num), "den": list(self.den),
        }  # fmt: skip


def figure_of(part: str, name: str, of: str, pairs: Sequence[tuple[float, float]], better: str = "") -> Figure | None:
    """Returns the figure of (num, den) pairs, or None where there are none with a denominator."""
    counted = [(float(num), float(den)) for num, den in pairs if den]
    if not counted:
        return None
    return Figure(part, name, of, tuple(num for num, _ in counted), tuple(den for _, den in counted), better)


def share_of(part: str, name: str, of: str, cases: Sequence[bool], better: str = "high") -> Figure | None:
    """Returns the share of cases that are True, or None for no cases."""
    return grouped_share_of(part, name, of, [[case] for case in cases], better)


def grouped_share_of(
    part: str, name: str, of: str, groups: Sequence[Sequence[bool]], better: str = "high"
) -> Figure | None:  # fmt: skip
    """Returns the share of answers that are True, or None for no answers. Answers of a group depend on each other."""
    figure = figure_of(part, name, of, [(sum(group), len(group)) for group in groups], better)
    return None if figure is None else replace(figure, is_share=True)


def agresti_coull(count: float, of: int) -> float:
    """The standard error of a share, which is not 0 where all cases are alike."""
    p = (count + 2) / (of + 4)
    return math.sqrt(p * (1 - p) / (of + 4))


@dataclass(frozen=True)
class Difference:
    """A figure of two cards: the second's value less the first's, with its standard error (None: not known)."""

    first: Figure
    second: Figure

    @property
    def value(self) -> float:
        return self.second.value - self.first.value

    @property
    def se(self) -> float | None:
        """Of pairs where both cards have the same groups, else of two samples; None where it is not known."""
        two_samples = math.hypot(self.first.se, self.second.se)
        if len(self.first.num) != len(self.second.num):
            return None if math.isnan(two_samples) else two_samples
        pairs = zip(self.second._residuals(), self.first._residuals(), strict=True)
        paired = _spread([b - a for a, b in ((one, two) for two, one in pairs)])
        if paired == 0 and self.value != 0:  # all cases changed alike
            paired = two_samples
        return None if math.isnan(paired) else paired

    @property
    def errors(self) -> float | None:
        """The difference in standard errors; 0 where nothing changed; None where the error is not known."""
        if self.value == 0:
            return 0.0
        return self.value / self.se if self.se else None


def _spread(residuals: Sequence[float]) -> float:
    """The square root of the sum of squares, for the degrees of freedom; NaN for one group."""
    count = len(residuals)
    if count < 2:
        return math.nan
    return math.sqrt(count / (count - 1) * math.fsum(e * e for e in residuals))
