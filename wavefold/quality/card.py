"""The card: what was measured of a model, as JSON that two runs write alike to the bit.

It has no time, no path and no machine in it: those are in run.json beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavefold.atomic import write_text
from wavefold.quality.statistics import Figure

KIND = "wavefold quality card 1"
FILE_NAME = "card.json"
MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Card:
    """`model`, `against` (None without another model): see `identity_of`. `missing`: why a part was not measured."""

    model: dict[str, Any]
    against: dict[str, Any] | None
    texts: dict[str, Any]
    settings: dict[str, Any]
    missing: dict[str, str]
    figures: tuple[Figure, ...]

    @property
    def parts(self) -> list[str]:
        """Names of the parts that were measured, in order."""
        return list(dict.fromkeys(figure.part for figure in self.figures))

    def find(self, part: str, name: str, of: str = "all") -> Figure | None:
        """Returns a figure, or None where there is none."""
        return next((figure for figure in self.figures if figure.key == (part, name, of)), None)

    def text(self) -> str:
        """The card in JSON. A figure is a line."""
        head = {
            "kind": KIND, "model": self.model, "against": self.against, "texts": self.texts,
            "settings": self.settings, "missing": self.missing,
        }  # fmt: skip
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        figures = ",\n".join(f"  {json.dumps(figure.values())}" for figure in self.figures)
        return "{\n" + ",\n".join([*lines, f' "figures": [\n{figures}\n ]']) + "\n}\n"

    def save(self, folder: Path) -> None:
        """Writes card.json into a folder, in one step."""
        write_text(folder / FILE_NAME, self.text())

    @classmethod
    def load(cls, path: Path) -> Card:
        """Reads a card, or that of a folder. Raises ValueError for a file that is none."""
        place = path / FILE_NAME if path.is_dir() else path
        try:
            if place.stat().st_size > MOST_BYTES:
                raise ValueError(f"has {place.stat().st_size:,} bytes")
            values = json.loads(place.read_text(encoding="utf-8"))
            if values.get("kind") != KIND:
                raise ValueError(f"its kind is {values.get('kind')!r}")
            figures = tuple(_figure(line) for line in values["figures"])
            return cls(
                values["model"], values["against"], values["texts"], values["settings"], values["missing"], figures
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{place}: is no quality card ({error}); expected a card.json that `wavefold quality` wrote"
            ) from None


def _figure(line: dict[str, Any]) -> Figure:
    num, den = (tuple(float(number) for number in line[key]) for key in ("num", "den"))
    if not num or len(num) != len(den) or not sum(den):
        raise ValueError(f"figure {line['figure']!r} has no groups that fit together")
    part, name, of, better = (str(line[key]) for key in ("part", "figure", "of", "better"))
    return Figure(part, name, of, num, den, better, bool(line["is_share"]))
