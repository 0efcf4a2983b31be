"""`pool.toml` in a folder of models: what stays, what comes first, for how long. Read again when it changes.

idle_seconds = 900          a model that nobody has asked for so long leaves
max_wait_seconds = 30       so long a request waits for others' models to be free, at most, before they have to leave

[models.flash]
pin = true                  it never leaves for others
preload = true              it is loaded when the server begins
width = 8                   answers at a time
cache_tokens = 65536        of all its answers together
draft_depth = 1
profile = "v4"
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "pool.toml"
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelSettings:
    """Of one model. None: as the server was started."""

    pin: bool = False
    preload: bool = False
    width: int | None = None
    cache_tokens: int | None = None
    draft_depth: int | None = None
    profile: str | None = None


@dataclass(frozen=True)
class PoolSettings:
    """Of a folder of models. Times are in seconds."""

    idle_seconds: float = 900.0
    max_wait_seconds: float = 30.0
    models: Mapping[str, ModelSettings] = field(default_factory=dict)

    def of(self, name: str) -> ModelSettings:
        """Returns the settings of a model; those of an adapter are its base's."""
        return self.models.get(name.partition(":")[0], ModelSettings())


RANGES: Mapping[str, tuple[float, float]] = {
    "idle_seconds": (1, 1e9), "max_wait_seconds": (0, 86_400), "width": (1, 1024), "cache_tokens": (128, 1 << 40),
    "draft_depth": (0, 15),
}  # fmt: skip
KINDS: Mapping[str, type] = {
    "idle_seconds": float, "max_wait_seconds": float, "pin": bool, "preload": bool, "width": int, "cache_tokens": int,
    "draft_depth": int, "profile": str,
}  # fmt: skip


def read_settings(folder: Path) -> PoolSettings:
    """Returns the settings in a folder; those that apply without the file where there is none.

    Raises ValueError, with the file and the key, for what is not allowed.
    """
    path = folder / FILE_NAME
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path}: has more than {MOST_BYTES:,} bytes; expected a few lines")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return PoolSettings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is no TOML ({error})") from None
    models = values.pop("models", {})
    if not isinstance(models, dict) or not all(isinstance(one, dict) for one in models.values()):
        raise ValueError(f"{path}: models is not allowed; expected tables such as [models.NAME]")
    general = _checked(path, "", values, ("idle_seconds", "max_wait_seconds"))
    of_models = {name: ModelSettings(**_checked(path, f"models.{name}.", one, [f.name for f in fields(ModelSettings)]))
                 for name, one in models.items()}  # fmt: skip
    return PoolSettings(**general, models=of_models)


def _checked(path: Path, place: str, values: Mapping[str, Any], allowed: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Returns values of the right types and ranges. Raises ValueError."""
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in allowed:
            raise ValueError(f"{path}: {place}{key} is not known; expected one of {', '.join(allowed)}")
        kind = KINDS[key]
        fits = type(value) in (int, float) if kind is float else type(value) is kind
        low, high = RANGES.get(key, (-math.inf, math.inf))
        if not fits or (kind in (int, float) and not low <= value <= high):
            words = {bool: "true or false", str: "a text"}.get(kind, f"a number from {low:,g} to {high:,g}")
            raise ValueError(f"{path}: {place}{key} = {str(value)[:80]} is not allowed; expected {words}")
        checked[key] = float(value) if kind is float else value
    return checked
