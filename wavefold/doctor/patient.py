"""The file that is examined. What checks share is read once: tensors' places, the model, its tokenizer, a text."""

from __future__ import annotations

import functools
import sysconfig
import time
from pathlib import Path

import torch
from torch import Tensor

from wavefold.chat import Tokenizer, tokenizer_of
from wavefold.checkpoint.index import TensorRef
from wavefold.config import ModelConfig
from wavefold.engine.budget import checked_budget, watch_budget
from wavefold.engine.open import open_model
from wavefold.model import Transformer
from wavefold.ops import Arithmetic
from wavefold.quant.format import FORMATS
from wavefold.system.sizes import gib

TEXT_FILES = ("enum.py", "http/client.py", "ast.py", "getopt.py", "logging/handlers.py")
"""Files of Python's standard library: held out of the shipped model's training, and on every machine."""
LARGE_BYTES = 4 << 30
"""A model of this size is examined on fewer tokens and rows."""


class Patient:
    """`memory`: as for `LLM`. `seconds`: after which what can be left out is left out, and the card says so."""

    def __init__(
        self, path: Path, against: Path | None = None, memory: int | str | None = None, seconds: float = 60.0
    ):  # fmt: skip
        self.path, self.against, self.memory = path, against, memory
        self.config: ModelConfig | None = None
        self.refs: dict[str, TensorRef] | None = None
        """Places of the tensors by official name, once their structure is known to be right."""
        self.model: Transformer | None = None
        self.nats: float | None = None
        """Nats a token on the text, once they were measured."""
        self.is_readable = True
        """False once its one file, which has the tokenizer too, is known not to be readable at all."""
        self.garbled = ""
        """The check that found values with which no product can be right ("" for none)."""
        self.is_sick = False
        """True once tensors are known to be wrong."""
        self._ends = time.monotonic() + seconds

    @property
    def time_left(self) -> float:
        """Seconds, perhaps below 0."""
        return self._ends - time.monotonic()

    def open(self) -> None:
        """Opens the model as `LLM` does, under a budget where it does not fit. Raises ValueError where it cannot be."""
        budget = checked_budget(self.path, Arithmetic(), self.memory, None, 1, "cpu", False)
        self.model = open_model(self.path, num_slots=budget.num_slots if budget else None)
        watch_budget(self.model, budget)

    def described(self) -> str:
        assert self.model is not None and self.refs is not None
        form = FORMATS.get(self.model.experts.store.stored(0, 0).form)
        return (
            f"{self.model.config.num_hidden_layers} layers, {self.model.config.n_routed_experts} experts in "
            f"{form.name if form else 'unknown'}, {gib(self.num_bytes)}"
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(ref.nbytes for ref in (self.refs or {}).values())

    @property
    def is_large(self) -> bool:
        return self.num_bytes > LARGE_BYTES

    @property
    def is_trained(self) -> bool | None:
        """True if the model predicts text clearly better than chance; None where nobody can tell."""
        if self.nats is None or self.config is None:
            return None
        return self.nats < 0.8 * torch.tensor(float(self.config.vocab_size)).log().item()

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None where there is none that can be used: its own check says why."""
        try:
            return tokenizer_of(self.path)
        except ValueError:
            return None

    def text_tokens(self, num_sequences: int, num_tokens: int) -> list[Tensor] | None:
        """Returns sequences of `num_tokens` ids of files of the standard library, or None without a tokenizer."""
        if self.tokenizer is None or self.config is None or self.tokenizer.vocab_size > self.config.vocab_size:
            return None
        root = Path(sysconfig.get_paths()["stdlib"])
        sequences: list[Tensor] = []
        for name in TEXT_FILES:
            if (root / name).is_file() and len(sequences) < num_sequences:
                text = (root / name).read_text(encoding="utf-8")[: 16 * num_tokens]
                sequences.append(torch.tensor(self.tokenizer.encode(text, bos=True)[:num_tokens]))
        return sequences or None

    def tokens(self, count: int) -> Tensor:
        """Returns `count` ids: of text where there is a tokenizer, else drawn."""
        found = self.text_tokens(1, count)
        if found is not None and len(found[0]) == count:
            return found[0]
        assert self.config is not None
        return torch.randint(self.config.vocab_size, (count,), generator=torch.Generator().manual_seed(0))
