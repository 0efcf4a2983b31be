"""flyweight on a GGUF file: its native runtime, in chunks of its server's size."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence

import numpy as np

CHUNK_TOKENS = 32


class Model:
    """The model of `gguf`, with one sequence of at most `max_tokens`."""

    def __init__(self, folder: str, gguf: str, max_tokens: int, threads: int):
        # its threads follow FLYWEIGHT_CPU_THREADS, which the process has
        runtime = importlib.import_module("flyweight.deepseek4").Deepseek4Runtime
        self._runtime = runtime(importlib.import_module("flyweight.v2").V2Model(gguf), max_tokens)

    def prefill(self, tokens: Sequence[int]) -> float:
        """All but the last token without logits, then the last one with its own."""
        self._runtime.reset()
        began = time.perf_counter()
        for at in range(0, len(tokens) - 1, CHUNK_TOKENS):
            self._runtime.prefill(tokens[at : min(at + CHUNK_TOKENS, len(tokens) - 1)])
        self._runtime.forward(tokens[-1])
        return time.perf_counter() - began

    def decode(self, tokens: Sequence[int]) -> list[float]:
        seconds = []
        for token in tokens:
            began = time.perf_counter()
            self._runtime.forward(token)
            seconds.append(time.perf_counter() - began)
        return seconds

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        self._runtime.reset()
        return np.stack([self._runtime.forward(token).copy() for token in tokens])
