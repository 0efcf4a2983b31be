"""Answers: `Runner` computes those of many requests at once, `TextStream` gives one as text, `Completion` has all.

`generate` is one sequence alone, and `sample` picks a token.
"""

from wavefold.engine.answer import Answer
from wavefold.engine.completion import Completion
from wavefold.engine.generate import Generation, StopReason, generate
from wavefold.engine.runner import Runner
from wavefold.engine.sampler import sample
from wavefold.engine.sampling import ResolvedSampling, Sampling
from wavefold.engine.stream import TextStream
from wavefold.engine.usage import Usage

__all__ = [
    "Answer", "Completion", "Generation", "ResolvedSampling", "Runner", "Sampling", "StopReason", "TextStream", "Usage",
    "generate", "sample",
]  # fmt: skip
