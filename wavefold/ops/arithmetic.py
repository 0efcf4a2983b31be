"""The two arithmetics of the project. A model has one of them, chosen when it is loaded.

`exact` computes the architecture's mathematics in one dtype (as transformers reads it): weights are decoded, nothing
else is quantized. `released` repeats DeepSeek's inference code, rounding by rounding: bfloat16
activations, FP8 inputs of the quantized GEMMs, FP8-simulated KV, FP4-simulated index queries and keys.
docs/arithmetic.md has the table of both, and the tests of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

EXACT_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


DEFAULT_ARITHMETIC = "released"
"""The arithmetic of `load`, `LLM`, `Transformer`, the commands and the benches unless they name one."""


@dataclass(frozen=True, init=False)
class Arithmetic:
    """`name` is "exact" or "released"; `dtype` is the dtype of activations between ops.

    `fp4_index` lets exact arithmetic round index queries, keys and scores as released arithmetic does: a model trained
    so then evaluates as it was trained.
    """

    name: str
    dtype: torch.dtype
    fp4_index: bool

    def __init__(self, name: str = DEFAULT_ARITHMETIC, dtype: torch.dtype | None = None, fp4_index: bool = False):
        """`dtype` None: bfloat16 for released arithmetic, float32 for exact. Raises ValueError for other names."""
        chosen = dtype or (torch.bfloat16 if name == "released" else torch.float32)
        for field, value in (("name", name), ("dtype", chosen), ("fp4_index", fp4_index)):
            object.__setattr__(self, field, value)
        if self.name not in ("exact", "released"):
            raise ValueError(f"arithmetic = {self.name!r} is not allowed; expected 'exact' or 'released'")
        allowed = (torch.bfloat16,) if self.released else EXACT_DTYPES
        if self.dtype not in allowed:
            names = ", ".join(str(dtype) for dtype in allowed)
            raise ValueError(f"dtype = {self.dtype} is not allowed with {self.name} arithmetic; expected {names}")

    @property
    def released(self) -> bool:
        """True if numbers are rounded as in the released inference code."""
        return self.name == "released"

    @property
    def rounds_index(self) -> bool:
        """True if index queries and keys go through FP4 and index scores through bfloat16."""
        return self.released or self.fp4_index

    @property
    def accumulate(self) -> torch.dtype:
        """The dtype of sums, softmax, router and stream mixing: float32, or float64 for activations in float64."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def matmul(self) -> torch.dtype:
        """The dtype in which attention, compressors and head multiply: `dtype` if exact, float32 if released."""
        return self.accumulate if self.released else self.dtype

    def __str__(self) -> str:
        if self.released:
            return self.name
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}{', FP4 index' if self.fp4_index else ''}"
