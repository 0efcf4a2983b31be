"""Generation: `sample` picks a token from logits, `generate` runs one sequence."""

from wavefold.engine.generate import Generation, Stats, StopReason, generate
from wavefold.engine.sampler import sample

__all__ = ["Generation", "Stats", "StopReason", "generate", "sample"]
