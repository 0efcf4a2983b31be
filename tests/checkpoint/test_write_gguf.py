"""GGUF files as the `gguf` package reads them, which is the oracle."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from wavefold.checkpoint.write_gguf import GgufTensor, Value, gguf_size, write_gguf
from wavefold.quant.encode import TYPES, as_bytes

KEYS = {
    "general.architecture": Value("string", "deepseek4"),
    "a.text": Value("string", "größe ｜"),
    "a.empty": Value("string", ""),
    "a.u32": Value("u32", 2**32 - 1),
    "a.f32": Value("f32", 0.1),
    "a.bool": Value("bool", True),
    "a.texts": Value("string", ["one", "", "dröi"]),
    "a.i32s": Value("i32", [-1, 0, 7]),
    "a.f32s": Value("f32", [10.0, 0.5]),
}


def tensors() -> dict[str, GgufTensor]:
    values = torch.arange(30, dtype=torch.float32).view(2, 3, 5)
    rows = torch.arange(2 * 34, dtype=torch.uint8).view(2, 34)
    return {
        "first": GgufTensor((2, 3, 5), TYPES["f32"], lambda: (as_bytes(part) for part in values)),
        "second": GgufTensor((2, 32), TYPES["q8_0"], lambda: [rows]),
        "third": GgufTensor((3,), TYPES["i32"], lambda: [torch.arange(3, dtype=torch.int32).view(torch.uint8)]),
    }


def test_keys_and_tensors(tmp_path: Path) -> None:
    path, told = tmp_path / "a.gguf", []
    write_gguf(path, KEYS, tensors(), lambda done, of: told.append((done, of)))
    reader = gguf.GGUFReader(path)
    read = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert {key: value.value for key, value in KEYS.items()} == read | {"a.f32": 0.1}
    assert read["a.f32"] == np.float32(0.1)
    first, second, third = reader.tensors
    assert (first.name, first.shape.tolist(), first.tensor_type.name) == ("first", [5, 3, 2], "F32")
    assert (first.data.reshape(-1) == np.arange(30)).all()
    assert (second.data.reshape(-1) == np.arange(68)).all() and second.tensor_type.name == "Q8_0"
    assert (third.data == np.arange(3)).all()
    assert [tensor.data_offset % 32 for tensor in reader.tensors] == [0, 0, 0]
    assert path.stat().st_size == gguf_size(KEYS, tensors())
    assert told[-1][0] <= told[-1][1] and told == sorted(told)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"older")

    def fail() -> list[torch.Tensor]:
        raise KeyError("a source that is gone")

    with pytest.raises(KeyError):
        write_gguf(path, KEYS, tensors() | {"last": GgufTensor((1,), TYPES["f32"], fail)})
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.gguf"]


def test_too_few_bytes_are_an_error(tmp_path: Path) -> None:
    short = GgufTensor((2,), TYPES["f32"], lambda: [torch.zeros(4, dtype=torch.uint8)])
    with pytest.raises(AssertionError):
        write_gguf(tmp_path / "a.gguf", KEYS, {"short": short})


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        write_gguf(tmp_path, KEYS, tensors())
