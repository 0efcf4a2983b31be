"""The model that is measured: opened under a budget of memory, read text by text, its logits a few rows at a time."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.cache import BLOCK_TOKENS
from wavefold.chat import Tokenizer
from wavefold.checkpoint.files import weight_files
from wavefold.checkpoint.fingerprint import fingerprint, identity
from wavefold.engine.logprobs import nats_of
from wavefold.engine.room import check_answer
from wavefold.llm import LLM
from wavefold.model.transformer import PASS_TOKENS
from wavefold.quality.settings import Settings

LOGITS_BYTES = 16 << 20
"""Of logits that are computed at a time: the head's matrix is read for each such part."""
YIELDED_BYTES = 4 << 20
"""Of logits that are handed out at a time: in float64 and in copies they take ten times as much."""


class Ids(NamedTuple):
    """A text as a model reads it. `ends[i]`: bytes of the text up to and with token i; BOS has 0."""

    ids: list[int]
    ends: list[int]

    def rows(self, first: int, last: int) -> range:
        """The rows of logits whose tokens begin at byte `first` or later and end by byte `last`."""
        begin = bisect.bisect_left(self.ends, first)
        return range(begin, max(begin, bisect.bisect_right(self.ends, last) - 1))


class Subject:
    """A model with its tokenizer. The caller closes it."""

    def __init__(self, path: Path | None, settings: Settings, memory: str | None = None):
        """Raises ValueError for what cannot be opened, and for a model whose tokenizer is not known."""
        dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
        try:
            self.llm = LLM(
                path, settings.arithmetic, dtype, batch_invariant=settings.batch_invariant,
                activations=settings.activations, memory=memory,
            )  # fmt: skip
        except ValueError as error:
            if not str(error).startswith("batch_invariant"):
                raise
            raise ValueError(
                f"{path}: a card in bfloat16 is computed by the CPU kernels alone, which are batch-invariant and take "
                "the official files' types and widths; expected those, or float32 (--arithmetic exact)"
            ) from None
        if self.llm.tokenizer is None:
            self.llm.close()
            raise ValueError(f"{self.llm.folder}: holds no tokenizer that can be used; a card is about texts")
        self.tokenizer: Tokenizer = self.llm.tokenizer
        self.model = self.llm.model
        budget = self.llm.budget
        self._step = PASS_TOKENS if budget is None else budget.step_tokens
        self._logits_rows, self._yielded_rows = (
            max(1, num_bytes // (4 * self.vocab_size)) for num_bytes in (LOGITS_BYTES, YIELDED_BYTES)
        )

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    def read(self, text: str, bos: bool = True) -> Ids:
        """A text as ids, after BOS."""
        ids = self.tokenizer.encode(text, bos=bos)
        sizes = (len(self.tokenizer.token_bytes(token)) for token in ids[1 if bos else 0 :])
        return Ids(ids, list(itertools.accumulate(sizes, initial=0 if bos else None)))

    def rows(self, ids: Sequence[int], wanted: range) -> Iterator[tuple[int, Tensor]]:
        """Reads ids as a new sequence. Yields (row, logits float32 [n, vocab]) for the rows in `wanted`, in order."""
        sequence = self.model.new_pool(len(ids)).open()
        for first in range(0, min(len(ids), wanted.stop), self._step):
            hidden = self._extended(sequence, ids[first : first + self._step])
            begin, end = max(first, wanted.start), min(first + len(hidden), wanted.stop)
            for row in range(begin, end, self._logits_rows):
                logits = self._logits(hidden[row - first : min(row + self._logits_rows, end) - first])
                for part in logits.split(self._yielded_rows):
                    yield row, part
                    row += len(part)

    def continuations(self, ids: Sequence[int], candidates: Sequence[Sequence[int]]) -> list[float]:
        """The log probability of each continuation of `ids`, which are read once."""
        branches = sum(len(tokens) + 2 * BLOCK_TOKENS for tokens in candidates)  # each copies the last block
        num_tokens = len(ids) + BLOCK_TOKENS + branches
        check_answer(self.model, min(len(ids), self._step), num_tokens)
        pool = self.model.new_pool(num_tokens)
        sequence = pool.open()
        for first in range(0, len(ids), self._step):
            hidden = self._extended(sequence, ids[first : first + self._step])
        after = self._logits(hidden[-1:]).double().log_softmax(-1)[0]
        forks = [sequence.fork() for _ in candidates]
        joined = torch.tensor([token for tokens in candidates for token in tokens])
        with torch.no_grad():
            hidden = self.model.extend(joined, forks, [len(tokens) for tokens in candidates])
        scores, first = [], 0
        for tokens in candidates:
            terms = [float(after[tokens[0]])]
            if len(tokens) > 1:
                rows = self._logits(hidden[first : first + len(tokens) - 1]).double().log_softmax(-1)
                terms += rows.gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
            scores.append(math.fsum(terms))
            first += len(tokens)
        return scores

    def nats(self, ids: Sequence[int], wanted: range) -> list[float]:
        """The nats of the tokens after the rows in `wanted`."""
        found: list[float] = []
        for row, logits in self.rows(ids, wanted):
            following = torch.tensor(ids[row + 1 : row + 1 + len(logits)])
            found += nats_of(logits, following).tolist()
        return found

    def close(self) -> None:
        """Gives the model's memory back."""
        del self.model
        self.llm.close()

    def _extended(self, sequence: object, ids: Sequence[int]) -> Tensor:
        with torch.no_grad():
            return self.model.extend(torch.tensor(ids), [sequence], [len(ids)])  # type: ignore[list-item]

    def _logits(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.model.logits(hidden)
        if not logits.isfinite().all():
            raise ValueError(f"{self.llm.folder}: its logits are not finite; `wavefold doctor` says where they break")
        return logits


def identity_of(path: Path, tokenizer: Tokenizer) -> dict[str, object]:
    """What a card says of a model: sizes and digests of weights, configuration, tokenizer and template; no paths."""
    from wavefold.config import read_config

    config, _ = read_config(path)
    template = tokenizer.chat_template
    return {
        "name": path.name,
        "weights": identity(fingerprint(path)),
        "config": _digest(repr(config)),
        "tokenizer": tokenizer.fingerprint,
        "template": _digest(template) if template else None,
        "bytes": sum(file.stat().st_size for file in weight_files(path)),
        "layers": config.num_hidden_layers,
        "vocabulary": config.vocab_size,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
