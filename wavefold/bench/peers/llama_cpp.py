"""llama.cpp on a GGUF file. `bench/llama_cpp.py` makes the file of a checkpoint, and drives the library."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class Model:
    """The model of `gguf`, with one sequence of at most `max_tokens`."""

    def __init__(self, folder: str, gguf: str, max_tokens: int, threads: int):
        importlib.import_module("llama_cpp")  # the reason why it cannot be, as Python says it
        from wavefold.bench.llama_cpp import LlamaCpp

        self._model = LlamaCpp(Path(gguf), max_tokens, threads)

    def prefill(self, tokens: Sequence[int]) -> float:
        return self._model.prefill(tokens)

    def decode(self, tokens: Sequence[int]) -> list[float]:
        return self._model.decode(tokens)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self._model.logits(tokens)
