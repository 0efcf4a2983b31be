"""The other model's logits on disk, while both are not in memory at once.

A passage has gigabytes of them with a large vocabulary. So they are written a few rows at a time, as the model makes
them, and the file is mapped where it is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wavefold.atomic import write_file
from wavefold.checkpoint.write import Entry, layout
from wavefold.engine.logprobs import nats_of
from wavefold.quality.subject import Ids, Subject


class OtherLogits(NamedTuple):
    """`logits` float32 [n, vocab], mapped, after `ends` bytes of the text, and the `nats` of the token after each.

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
        nats = torch.empty(len(wanted), dtype=torch.float64)
        tensors = {
            "nats": nats, "ends": torch.tensor(ids.ends[wanted.start : wanted.stop]),
            "ids": torch.tensor(ids.ids[wanted.start : wanted.stop]),
            "logits": torch.empty(len(wanted), subject.vocab_size, device="meta"),
        }  # fmt: skip
        (*names, last), header = layout(
            {name: Entry(tuple(tensor.shape), tensor.dtype, tensor.detach) for name, tensor in tensors.items()}
        )
        assert last == "logits"

        def fill(file: BinaryIO) -> None:
            file.seek(len(header) + sum(tensors[name].nbytes for name in names))
            for row, part in subject.rows(ids.ids, wanted):
                following = torch.tensor(ids.ids[row + 1 : row + 1 + len(part)])
                nats[row - wanted.start : row - wanted.start + len(part)] = nats_of(part, following)
                file.write(part.contiguous().numpy().data)
            file.seek(0)
            file.write(header)
            for name in names:
                file.write(tensors[name].numpy().data)

        write_file(path, fill)

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
