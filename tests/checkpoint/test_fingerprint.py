"""Fingerprints: every change that is claimed to be seen is seen, whatever the files; what is sampled is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavefold.checkpoint.fingerprint import (
    SAMPLE_BYTES,
    WHOLE_BYTES,
    fingerprint,
    identity,
)
from wavefold.waves.agreement import first_difference

CODES = "layers.0.ffn.experts.1.w1.weight"
SCALE = "layers.0.ffn.experts.1.w1.scale"
DENSE = "layers.0.attn.wq_a.weight"
SIZE = 2 * WHOLE_BYTES


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def codes(*shape: int) -> Tensor:
        return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)

    return {
        CODES: codes(2, SIZE // 2),
        SCALE: codes(SIZE // 16).view(torch.uint8),
        DENSE: codes(2, SIZE // 2),
        "layers.0.ffn.experts.1.w2.weight": codes(WHOLE_BYTES),
        "empty": torch.empty(0),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    save_file(tensors(), tmp_path / "a" / "model.safetensors")
    return tmp_path / "a"


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> dict[str, str]:
    """The fingerprint of a copy of the checkpoint after `change`."""
    copy = load_file(folder / "model.safetensors")
    change(copy)
    target = folder.parent / "b"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    save_file(copy, target / "model.safetensors")
    return fingerprint(target)


def flip(name: str, at: int) -> Callable[[dict[str, Tensor]], object]:
    def change(copy: dict[str, Tensor]) -> None:
        copy[name].view(torch.uint8).view(-1)[at] ^= 1

    return change


@pytest.mark.parametrize(
    ("name", "at"),
    [
        (SCALE, 7), (SCALE, SIZE // 16 - 1), (DENSE, 3 * SAMPLE_BYTES), ("layers.0.ffn.experts.1.w2.weight", 300_000),
        (CODES, 0), (CODES, SAMPLE_BYTES - 1), (CODES, SIZE // 2), (CODES, SIZE - SAMPLE_BYTES), (CODES, SIZE - 1),
    ],
)  # fmt: skip
def test_one_bit_is_seen(folder: Path, name: str, at: int) -> None:
    before, after = fingerprint(folder), changed(folder, flip(name, at))
    assert first_difference(before, after) == name
    assert [key for key in before if before[key] != after[key]] == [name]
    assert identity(before) != identity(after)


def test_large_codes_of_routed_experts_are_sampled(folder: Path) -> None:
    """The price of speed, as the module says it."""
    assert changed(folder, flip(CODES, SAMPLE_BYTES)) == fingerprint(folder)


def test_name_dtype_and_shape_are_seen(folder: Path) -> None:
    before = fingerprint(folder)
    assert first_difference(before, changed(folder, lambda t: t.update({DENSE: t[DENSE].view(torch.uint8)}))) == DENSE
    assert first_difference(before, changed(folder, lambda t: t.update({DENSE: t[DENSE].view(-1)}))) == DENSE
    renamed = changed(folder, lambda t: t.update({DENSE.replace("wq_a", "wq_b"): t.pop(DENSE)}))
    assert identity(before) != identity(renamed)
    assert first_difference(before, renamed) is None, "only what both have is compared"


def test_files_do_not_matter(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number, (name, tensor) in enumerate(reversed(tensors().items())):
        save_file({name: tensor}, tmp_path / "shards" / f"model-{number}.safetensors")
    assert fingerprint(tmp_path / "shards") == fingerprint(folder)
    assert identity(fingerprint(tmp_path / "shards")) == identity(fingerprint(folder))


def test_files_of_other_ranks_may_be_missing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rank").mkdir()
    save_file({DENSE: tensors()[DENSE]}, tmp_path / "rank" / "one.safetensors")
    (tmp_path / "rank" / "model.safetensors.index.json").write_text(
        f'{{"weight_map": {{"{DENSE}": "one.safetensors", "{CODES}": "two.safetensors"}}}}'
    )
    digests = fingerprint(tmp_path / "rank")
    assert list(digests) == [DENSE]
    assert first_difference(digests, fingerprint(folder)) is None


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"\xff" * 40])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors: not a readable safetensors file"):
        fingerprint(tmp_path)


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a readable .* bytes in fact"):
        fingerprint(folder)
