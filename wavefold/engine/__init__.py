"""Generation: `sample` picks a token from logits, `generate` runs one sequence."""

from wavefold.engine.generate import Generation, Stats, generate
from wavefold.engine.sampler import sample

__all__ = ["Generation", "Stats", "generate", "sample"]
