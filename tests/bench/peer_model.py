"""A peer for tests: a model that takes a second for a prompt, half of one for a token, and prefers none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

VOCABULARY = 40


class Model:
    def __init__(self, folder: str, gguf: str, max_tokens: int, threads: int):
        self.max_tokens = max_tokens

    def prefill(self, tokens: Sequence[int]) -> float:
        assert len(tokens) < self.max_tokens
        return 1.0

    def decode(self, tokens: Sequence[int]) -> list[float]:
        return [0.5] * len(tokens)

    def logits(self, tokens: Sequence[int]) -> Any:
        values: Tensor = torch.zeros(len(tokens), VOCABULARY)
        return values
