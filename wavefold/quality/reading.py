"""Held-out text: how well a model predicts it, by kind, position and context, and how far it is from another model.

    passage -> ids -> logits -> nats of each token -> blocks of 512 bytes -> bits per byte, nats per token
                         other model's logits at the same byte -> KL(other || this), the same best token

Models with different tokenizers are compared where both have a boundary between tokens: there both have read the same
bytes. A block counts for the position of its first token. A second set of units reads the end of each passage after
shorter and shorter contexts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from wavefold.engine.logprobs import divergence, nats_of
from wavefold.quality.other import OtherLogits
from wavefold.quality.part import Part, Result, Unit, present
from wavefold.quality.passages import Passage
from wavefold.quality.settings import BYTES_A_TOKEN
from wavefold.quality.statistics import Figure, figure_of
from wavefold.quality.subject import Ids, Subject

BLOCK_BYTES = 512
POSITIONS = (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""First tokens of the ranges by which figures are shown."""
TAIL_BYTES = 768
CONTEXTS = (96, 384, 1536, 6144)
"""Bytes of text before the end of a passage that is scored."""
COUNTS = ("bytes", "tokens", "nats", "aligned", "kl", "agree", "other_nats")


class Reading(Part):
    """`folder`: where the other model's logits lie, None without one."""

    name = "text"

    def __init__(self, passages: Sequence[Passage], folder: Path | None):
        self.passages, self.folder = passages, folder

    def units(self) -> list[Unit]:
        whole = [
            Unit(str(number), passage.num_bytes // BYTES_A_TOKEN, 0, (passage.kind, "", passage.text, 0))
            for number, passage in enumerate(self.passages)
        ]
        return whole + [unit for number, passage in enumerate(self.passages) for unit in _tails(number, passage)]

    def record(self, subject: Subject, unit: Unit) -> None:
        """Writes the logits of the other model, for `measure`."""
        _, _, text, first = unit.data
        ids = subject.read(text)
        OtherLogits.write(self.place(unit), subject, ids, ids.rows(first, len(text.encode())))

    def place(self, unit: Unit) -> Path:
        """The file of the other model's logits."""
        assert self.folder is not None
        return self.folder / f"{unit.key}.safetensors"

    @staticmethod
    def num_rows(unit: Unit) -> int:
        """Rows of logits of a unit, about."""
        _, _, text, first = unit.data
        return (len(text.encode()) - first) // BYTES_A_TOKEN

    def measure(self, subject: Subject, unit: Unit) -> Result:
        kind, context, text, first = unit.data
        ids, num_bytes = subject.read(text), len(text.encode())
        wanted = ids.rows(first, num_bytes)
        other = None if self.folder is None else OtherLogits.read(self.place(unit))
        blocks: dict[int, dict[str, float]] = {}
        for row, logits in subject.rows(ids.ids, wanted):
            _add(blocks, ids, row, logits, other)
        if other is not None:
            for end, nats in zip(other.ends, other.nats, strict=True):
                _block(blocks, end, -1)["other_nats"] += nats
        same = subject.tokenizer.decode(ids.ids[1:]) == text
        alike = None if other is None else ids.ids[wanted.start : wanted.stop] == other.ids
        ordered = [blocks[number] for number in sorted(blocks)]
        return {"kind": kind, "context": context, "blocks": ordered, "round_trip": same, "ids_alike": alike}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        whole = [result for result in results if not result["context"]]
        blocks = [block for result in whole for block in result["blocks"]]
        kinds = list(dict.fromkeys(result["kind"] for result in whole))
        found = _figures("all", blocks)
        for kind in kinds if len(kinds) > 1 else ():
            found += _figures(kind, [b for result in whole if result["kind"] == kind for b in result["blocks"]])
        for first, last in zip(POSITIONS, (*POSITIONS[1:], math.inf), strict=True):
            name = f"position {first:,} to {last - 1:,}" if last < math.inf else f"position {first:,} on"
            found += _figures(name, [block for block in blocks if first <= block["position"] < last], short=True)
        for context in dict.fromkeys(result["context"] for result in results if result["context"]):
            tails = [block for result in results if result["context"] == context for block in result["blocks"]]
            found += _figures(context, tails, short=True)
        same = [(float(result["round_trip"]), 1.0) for result in results]
        alike = [(float(result["ids_alike"]), 1.0) for result in results if result["ids_alike"] is not None]
        return found + present(
            [figure_of(self.name, "texts that the tokenizer gives back", "all", same, "high"),
             figure_of(self.name, "texts with the other model's ids", "all", alike, "high")]
        )  # fmt: skip


def _tails(number: int, passage: Passage) -> Iterator[Unit]:
    """The end of a passage after contexts that are shorter than the passage."""
    text = passage.text.encode()
    for context in CONTEXTS:
        begin = len(text) - TAIL_BYTES - context
        if begin <= 0:
            break
        while begin and text[begin] & 0xC0 == 0x80:  # inside a character
            begin -= 1
        part = text[begin:].decode()
        first = len(text) - TAIL_BYTES - begin
        name = f"after {context:,} bytes"
        yield Unit(
            f"{number}-{context}", len(part) // BYTES_A_TOKEN, 0, (passage.kind, name, part, first)
        )  # fmt: skip


def _block(blocks: dict[int, dict[str, float]], end: int, position: int) -> dict[str, float]:
    """The block of a byte, which is made where it is not there yet."""
    found = blocks.setdefault(end // BLOCK_BYTES, {"position": -1, **dict.fromkeys(COUNTS, 0.0)})
    if found["position"] < 0:
        found["position"] = position
    return found


def _add(blocks: dict[int, dict[str, float]], ids: Ids, row: int, logits: Tensor, other: OtherLogits | None) -> None:
    """Adds rows of logits, from `row` on, to their blocks."""
    following = torch.tensor(ids.ids[row + 1 : row + 1 + len(logits)])
    nats = nats_of(logits, following).tolist()
    for number, value in enumerate(nats, row):
        block = _block(blocks, ids.ends[number], number)
        block["bytes"] += ids.ends[number + 1] - ids.ends[number]
        block["tokens"] += 1
        block["nats"] += value
    if other is None:
        return
    pairs = [(n, other.row_of[end]) for n in range(len(logits)) if (end := ids.ends[row + n]) in other.row_of]
    if not pairs:
        return
    others, these = other.logits[[there for _, there in pairs]], logits[[n for n, _ in pairs]]
    distances = divergence(others, these).tolist()
    same = (others.argmax(-1) == these.argmax(-1)).tolist()
    for (n, _), distance, agrees in zip(pairs, distances, same, strict=True):
        block = _block(blocks, ids.ends[row + n], row + n)
        block["aligned"] += 1
        block["kl"] += distance
        block["agree"] += agrees


def _figures(of: str, blocks: Sequence[dict[str, float]], short: bool = False) -> list[Figure]:
    """The figures of some blocks."""

    def ratio(name: str, num: str, den: str, better: str, scale: float = 1.0) -> Figure | None:
        return figure_of("text", name, of, [(block[num] * scale, block[den]) for block in blocks], better)

    return present(
        [
            ratio("bits per byte", "nats", "bytes", "low", 1 / math.log(2)),
            None if short else ratio("nats per token", "nats", "tokens", "low"),
            None if short else ratio("bytes per token", "bytes", "tokens", ""),
            _against_bits(of, blocks, short),
            ratio("KL to the other model", "kl", "aligned", "low"),
            ratio("same best token", "agree", "aligned", "high"),
        ]
    )


def _against_bits(of: str, blocks: Sequence[dict[str, float]], short: bool) -> Figure | None:
    """Bits per byte beyond those of the other model on the same text."""
    if short or not any(block["aligned"] for block in blocks):
        return None
    pairs = [((block["nats"] - block["other_nats"]) / math.log(2), block["bytes"]) for block in blocks]
    return figure_of("text", "bits per byte beyond the other model", of, pairs, "low")
