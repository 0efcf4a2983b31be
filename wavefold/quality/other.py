"""The other model's logits on disk, while both are not in memory at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavefold.engine.logprobs import nats_of
from wavefold.quality.subject import Ids, Subject


class OtherLogits(NamedTuple):
    """`logits` float32 [n, vocab] after `ends` bytes of the text, and the `nats` of the token after each.

    `row_of`: which row has read so many bytes. `ids`: the token of each row.
    """

    logits: Tensor
    ends: list[int]
    nats: list[float]
    ids: list[int]
    row_of: dict[int, int]

    @classmethod
    def write(cls, path: Path, subject: Subject, ids: Ids, wanted: range) -> None:
        """Reads a text and writes the rows in `wanted`, in one step."""
        logits = torch.empty(len(wanted), subject.vocab_size)
        for row, part in subject.rows(ids.ids, wanted):
            logits[row - wanted.start : row - wanted.start + len(part)] = part
        following = torch.tensor(ids.ids[wanted.start + 1 : wanted.stop + 1])
        nats = torch.cat(list(map(nats_of, logits.split(64), following.split(64))))
        tensors = {
            "logits": logits, "nats": nats, "ends": torch.tensor(ids.ends[wanted.start : wanted.stop]),
            "ids": torch.tensor(ids.ids[wanted.start : wanted.stop]),
        }  # fmt: skip
        unfinished = path.with_suffix(".part")
        save_file(tensors, unfinished)
        os.replace(unfinished, path)

    @classmethod
    def read(cls, path: Path) -> OtherLogits:
        """Raises ValueError for a file that is missing or damaged."""
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); remove the folder and run again") from None
        ends = tensors["ends"].tolist()
        row_of = {end: row for row, end in enumerate(ends)}
        return cls(tensors["logits"], ends, tensors["nats"].tolist(), tensors["ids"].tolist(), row_of)


def rows_bytes(num_tokens: int, vocab_size: int) -> int:
    """Bytes of the logits of so many tokens."""
    return 4 * num_tokens * vocab_size
