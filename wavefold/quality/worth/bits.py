"""Bits a byte of held-out files, each read in pieces without the text before them, as training evaluates.

The arithmetic is that of training: exact, in bfloat16. Files are what is counted: bytes of one file depend on each
other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from wavefold.chat import Tokenizer
from wavefold.checkpoint import load
from wavefold.data.batches import fixed_batches
from wavefold.data.corpus import Document
from wavefold.model import Transformer
from wavefold.quality.part import Result, Unit
from wavefold.quality.settings import BYTES_A_TOKEN
from wavefold.quality.statistics import Figure, figure_of
from wavefold.quality.subject import Subject
from wavefold.quality.worth.asked import Measure, digest_of
from wavefold.quality.worth.sources import drawn
from wavefold.train.objective import Objective, evaluate

SEQ_LEN = 1024
UNIT_BYTES = 1 << 17
MOST_BYTES = 2_000_000
"""Of a corpus; of a larger one whole files are drawn."""


def nats_by_file(
    model: Transformer, tokenizer: Tokenizer, documents: Sequence[Document], seq_len: int
) -> Iterator[tuple[float, int]]:  # fmt: skip
    """Yields (nats, tokens) of each document between BOS and EOS, in pieces of `seq_len` tokens."""
    objective = Objective(model)
    for document in documents:
        ids = tokenizer.encode_document(document.text)
        yield evaluate(objective, fixed_batches([ids], seq_len, 4 * seq_len))


def bounded(documents: Sequence[Document], num_bytes: int, seed: int) -> list[Document]:
    """Returns documents of `num_bytes` in all at most, but at least one; all of them if they are not more."""
    if sum(len(document.text.encode()) for document in documents) <= num_bytes:
        return list(documents)
    chosen: list[Document] = []
    left = num_bytes
    for document in drawn(documents, len(documents), seed):
        if (size := len(document.text.encode())) <= left:
            chosen.append(document)
            left -= size
    return chosen or list(documents[:1])


class Bits(Measure):
    """Bits a byte. `name`: of the measure; `corpus`: for people."""

    better = "low"

    def __init__(self, name: str, corpus: str, documents: Sequence[Document]):
        self.name, self.title = name, f"bits a byte, held out of {corpus}"
        self._groups: list[list[Document]] = [[]]
        size = 0
        for document in (one for one in documents if one.text):
            if size and size + len(document.text) > UNIT_BYTES:
                self._groups.append([])
                size = 0
            self._groups[-1].append(document)
            size += len(document.text)
        self._model: tuple[Subject, Transformer] | None = None

    def units(self) -> list[Unit]:
        found = []
        for number, group in enumerate(self._groups):
            texts = [(document.name, document.text) for document in group]
            read = sum(len(text) for _, text in texts) // BYTES_A_TOKEN
            found.append(Unit(f"{number:05}-{digest_of([SEQ_LEN, texts])}", read, 0, group))
        return found

    def measure(self, subject: Subject, unit: Unit) -> Result:
        if self._model is None or self._model[0] is not subject:
            self._model = subject, load(subject.llm.folder, "exact", torch.bfloat16)
        model = self._model[1]
        pairs = nats_by_file(model, subject.tokenizer, unit.data, SEQ_LEN)
        sizes = [len(document.text.encode()) for document in unit.data]
        return {"files": [[nats, size] for (nats, _), size in zip(pairs, sizes, strict=True)]}

    def figure(self, results: Sequence[Result]) -> Figure | None:
        files = [(nats / math.log(2), size) for result in results for nats, size in result["files"]]
        return figure_of(self.name, self.title, "", files, self.better)
