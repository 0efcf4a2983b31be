"""The other model's logits on disk: never whole in memory, and the same values row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wavefold.quality.other import OtherLogits, rows_bytes
from wavefold.quality.subject import YIELDED_BYTES, Ids

VOCABULARY, NUM_TOKENS = 1 << 14, 1024
WANTED = range(3, NUM_TOKENS - 2)
ROWS = YIELDED_BYTES // (4 * VOCABULARY)


class Memory(TorchDispatchMode):
    """Counts the bytes of the largest tensor that is asked for."""

    most_bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                self.most_bytes = max(self.most_bytes, tensor.untyped_storage().nbytes())
        return result


def ids_of_text() -> Ids:
    return Ids([7 * number % VOCABULARY for number in range(NUM_TOKENS)], [3 * number for number in range(NUM_TOKENS)])


def logits_of(rows: range) -> Tensor:
    places = torch.arange(rows.start, rows.stop)[:, None] * 31 + torch.arange(VOCABULARY)
    return (places % 1009).float() / 100


def subject() -> SimpleNamespace:
    """A model with a large vocabulary, which hands out as many rows as `Subject.rows` does."""

    def rows(ids: Sequence[int], wanted: range) -> Iterator[tuple[int, Tensor]]:
        for row in range(wanted.start, wanted.stop, ROWS):
            yield row, logits_of(range(row, min(row + ROWS, wanted.stop)))

    return SimpleNamespace(vocab_size=VOCABULARY, rows=rows)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("other") / "0.safetensors"


def test_a_few_rows_are_in_memory_at_a_time(path: Path) -> None:
    with Memory() as memory:
        OtherLogits.write(path, subject(), ids_of_text(), WANTED)
    assert YIELDED_BYTES <= memory.most_bytes <= 2 * YIELDED_BYTES  # in float64
    assert rows_bytes(len(WANTED), VOCABULARY) > 7 * memory.most_bytes
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_rows_are_those_of_the_model(path: Path) -> None:
    """The safetensors package reads them; the nats are torch's cross entropy of the next tokens."""
    ids, other = ids_of_text(), OtherLogits.read(path)
    logits = logits_of(WANTED)
    assert torch.equal(load_file(path)["logits"], logits) and torch.equal(other.logits, logits)
    following = torch.tensor(ids.ids[WANTED.start + 1 : WANTED.stop + 1])
    expected = torch.nn.functional.cross_entropy(logits.double(), following, reduction="none")
    assert other.nats == pytest.approx(expected.tolist(), rel=1e-12)
    assert (other.ids, other.ends) == (ids.ids[WANTED.start : WANTED.stop], ids.ends[WANTED.start : WANTED.stop])
    assert other.row_of[ids.ends[WANTED.start + 5]] == 5


def test_the_file_is_mapped_where_it_is_read(path: Path) -> None:
    other = OtherLogits.read(path)
    begin = other.logits.data_ptr()
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    spans = [tuple(int(bound, 16) for bound in line[0].split("-")) for line in lines]
    assert any(first <= begin and begin + other.logits.nbytes <= last for first, last in spans)


def test_a_file_that_is_cut_is_refused(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"cannot be read .* remove the folder and run again"):
        OtherLogits.read(cut)
