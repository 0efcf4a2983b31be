"""Answers: `Runner` computes those of many requests at once, `TextStream` gives one as text, `Completion` has all.

`generate` is one sequence alone, and `sample` picks a token.
"""

from wavefold.engine.answer import Answer
from wavefold.engine.completion import Completion
from wavefold.engine.generate import Generation, generate
from wavefold.engine.logprobs import TokenLogprob
from wavefold.engine.runner import Runner
from wavefold.engine.sampler import sample
from wavefold.engine.sampling import ResolvedSampling, Sampling
from wavefold.engine.stream import AsyncTextStream, TextStream
from wavefold.engine.usage import Usage

__all__ = [
    "Answer", "AsyncTextStream", "Completion", "Generation", "ResolvedSampling", "Runner", "Sampling", "TextStream",
    "TokenLogprob", "Usage", "generate", "sample",
]  # fmt: skip
