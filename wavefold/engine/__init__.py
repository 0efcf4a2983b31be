"""Generation: `sample` picks a token, `generate` runs a sequence, `TextStream` makes text and a `Completion` of it."""

from wavefold.engine.completion import Completion, TextStream
from wavefold.engine.generate import Generation, Stats, StopReason, generate
from wavefold.engine.sampler import sample
from wavefold.engine.sampling import ResolvedSampling, Sampling

__all__ = [
    "Completion", "Generation", "ResolvedSampling", "Sampling", "Stats", "StopReason", "TextStream", "generate",
    "sample",
]  # fmt: skip
