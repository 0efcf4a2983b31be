"""Compile-time parameters of the kernels of routed experts."""

from __future__ import annotations

from dataclasses import dataclass

from wavefold.ops.tilelang.tasks import BLOCK


@dataclass(frozen=True)
class Shape:
    """Widths, rows of a tile (16 if an expert has few rows, else 64), slots, limit of SwiGLU."""

    hidden: int
    inner: int
    rows: int = 64
    slots: int = 6
    limit: float = 10.0
    stages: int = 3
    """Number of loads in flight. A load is a pair of tiles of 128 values."""

    def __post_init__(self) -> None:
        for name in ("hidden", "inner"):
            if (value := getattr(self, name)) < BLOCK or value % BLOCK:
                raise ValueError(f"{name} = {value} is not allowed; expected a multiple of {BLOCK}")
        if self.rows not in (16, 32, 64):
            raise ValueError(f"rows = {self.rows} is not allowed; expected 16, 32 or 64")
        if not 1 <= self.slots <= 16:
            raise ValueError(f"slots = {self.slots} is not allowed; expected 1 to 16")
        if not 1 <= self.stages <= 6:
            raise ValueError(f"stages = {self.stages} is not allowed; expected 1 to 6")
