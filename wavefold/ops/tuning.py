"""How the CPU kernels feed themselves and choose among themselves: five values that differ by processor.

    Tuning.parse("hint=l2,ahead=8192")   the usual one, with these fields in place of its own
    usual(isa)                           the library's, for a processor that nobody has measured
    default(isa)                         WAVEFOLD_TUNING, else the usual one

`bench/tune.py` measures one. wf_tuning in csrc/wavefold.h says the same to the library.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from wavefold.ops.native import library

HINTS = ("none", "stream", "l1", "l2", "l3")
"""Kinds of hints, by their number in the library."""
HINT_FIELDS = ("hint", "plain_hint")
RANGES = {"ahead": (0, 1 << 20), "few_rows": (1, 256), "float_rows": (0, 1024)}
VARIABLE = "WAVEFOLD_TUNING"
USUAL = "usual"
TWO_WAYS = ("avx512bf16",)
"""Instruction sets that multiply bfloat16, and float32 too: `float_rows` chooses."""


class Tuning(NamedTuple):
    """The five values. Hints and `ahead` never change a bit of a result; the others change the order of sums.

    hint        the place that weights are asked into before their use: "none" (nobody asks), "stream" (near the core,
                past the other caches), "l1", "l2" or "l3"
    ahead       bytes from a weight in use to the one that is asked for, for one row of x: 0 to 1 MiB
    few_rows    rows of x up to which weights are decoded in registers. More rows meet tiles of decoded weights.
                1 to 256; a batch-invariant runtime has no tiles
    float_rows  rows of x from which products are float32 multiply-adds on a processor that has products of bfloat16:
                1 to 1024, or 0 for never. A batch-invariant runtime takes 1 as it is and any other number as 0
    plain_hint  `hint` for weights that are not decoded (bfloat16, float32) and one row of x
    """

    hint: str
    ahead: int
    few_rows: int
    float_rows: int
    plain_hint: str

    @classmethod
    def parse(cls, text: str, base: Tuning | None = None) -> Tuning:
        """Returns `base` (None: the usual one of the best instruction set) with the fields of `text` replaced.

        `text` is "usual", which replaces nothing, or FIELD=VALUE,... Raises ValueError for anything else.
        """
        values = (usual() if base is None else base)._asdict()
        for part in () if text == USUAL else text.split(","):
            field, equals, value = (word.strip() for word in part.partition("="))
            if not equals or field not in values:
                raise ValueError(
                    f"tuning {part!r} is not allowed; expected {USUAL}, or FIELD=VALUE,... with fields of "
                    f"{', '.join(cls._fields)}"
                )
            values[field] = value if field in HINT_FIELDS else _number(field, value)
        return cls(**values).checked()

    def checked(self) -> Tuning:
        """Returns this tuning. Raises ValueError for a value that the library does not take."""
        for field in HINT_FIELDS:
            if (hint := getattr(self, field)) not in HINTS:
                raise ValueError(f"tuning {field} = {hint!r} is not allowed; expected one of {', '.join(HINTS)}")
        for field, (least, most) in RANGES.items():
            value = getattr(self, field)
            if not least <= value <= most:
                raise ValueError(f"tuning {field} = {value} is not allowed; expected {_range(field)}")
        return self

    def numbers(self) -> tuple[int, ...]:
        """Returns the fields of wf_tuning."""
        return tuple(HINTS.index(value) if field in HINT_FIELDS else value for field, value in self._asdict().items())

    def __str__(self) -> str:
        return ",".join(f"{field}={value}" for field, value in self._asdict().items())


def usual(isa: str | None = None) -> Tuning:
    """Returns the tuning of an instruction set (None: the best) on this processor where nobody has measured."""
    hint, ahead, few_rows, float_rows, plain_hint = library.usual_tuning(isa)
    return Tuning(HINTS[hint], ahead, few_rows, float_rows, HINTS[plain_hint])


def default(isa: str | None = None) -> Tuning:
    """Returns the tuning of runtimes that were given none. Raises ValueError for a WAVEFOLD_TUNING that is not one."""
    text = os.environ.get(VARIABLE)
    if not text:
        return usual(isa)
    try:
        return Tuning.parse(text, usual(isa))
    except ValueError as error:
        raise ValueError(f"{VARIABLE} = {text}: {error}") from None


def _number(field: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"tuning {field} = {text!r} is not allowed; expected {_range(field)}") from None


def _range(field: str) -> str:
    least, most = RANGES[field]
    return f"{least} to {most}"
