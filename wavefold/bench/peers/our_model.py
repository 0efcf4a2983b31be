"""This project as a contestant among whole models: the checkpoint's folder, in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wavefold.model import Transformer


class Model:
    """The model of `folder`, with one sequence of at most `max_tokens`."""

    def __init__(self, folder: str, gguf: str, max_tokens: int, threads: int, arithmetic: str):
        from wavefold.bench.contestants import Wavefold
        from wavefold.engine.open import open_model

        self._model = Wavefold(open_model(Path(folder), arithmetic, torch.bfloat16, "cpu"), max_tokens)
        self._model.warm_up()

    def prefill(self, tokens: Sequence[int]) -> float:
        return self._model.prefill(tokens)

    def decode(self, tokens: Sequence[int]) -> list[float]:
        return self._model.decode(tokens)

    def logits(self, tokens: Sequence[int]) -> Tensor:
        return new_logits(self._model.model, tokens)


def new_logits(model: Transformer, tokens: Sequence[int]) -> Tensor:
    """Logits [tokens, vocab] of a new sequence."""
    with torch.no_grad():
        sequence = model.new_pool(len(tokens)).open()
        return model.logits(model.extend(torch.tensor(tokens), [sequence], [len(tokens)]))
