"""Weights are mapped, not read: loading costs little memory, and a file may be larger than the machine."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from wavefold import ModelConfig, load, random_checkpoint
from wavefold.checkpoint.files import read_tensors

GB = 10**9


def write_hollow(path: Path, name: str, dtype: str, shape: list[int], num_bytes: int) -> None:
    """A safetensors file of zeros that takes no room on the disk."""
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, num_bytes]}}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + num_bytes)


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_loading_reads_almost_nothing(config: ModelConfig, tmp_path: Path) -> None:
    """A model with 2 GB of embeddings."""
    rows = GB // (2 * config.hidden_size)
    folder = tmp_path / "model"
    random_checkpoint(config.replace(num_hash_layers=0), folder, seed=0)
    values = config.replace(num_hash_layers=0, vocab_size=rows).to_dict()
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "model-00005-of-00006.safetensors").rename(folder / "rest")
    write_hollow(folder / "model-00001-of-00006.safetensors", "embed.weight", "BF16", [rows, 160], rows * 320)
    write_hollow(folder / "head.safetensors", "head.weight", "BF16", [rows, 160], rows * 320)
    take_rest(folder)
    before = resident()
    model = load(folder, "exact")
    assert model.embed.weight.untyped_storage().nbytes() > 0.99 * GB
    assert resident() - before < 0.05 * GB
    assert model.embed.weight[rows - 1].sum() == 0


def take_rest(folder: Path) -> None:
    """The head's shard without head.weight, and an index of what is there now."""
    from safetensors.torch import load_file, save_file

    rest = load_file(folder / "rest")
    del rest["head.weight"]
    save_file(rest, folder / "model-00005-of-00006.safetensors")
    (folder / "rest").unlink()
    (folder / "model.safetensors.index.json").unlink()


def test_a_file_larger_than_memory(tmp_path: Path) -> None:
    num_bytes = 2 * (psutil.virtual_memory().total + psutil.swap_memory().total)
    try:
        write_hollow(
            tmp_path / "model.safetensors", "w", "F8_E4M3", [num_bytes // 1024, 1024], num_bytes // 1024 * 1024
        )
    except OSError as error:
        pytest.skip(f"no hollow file of {num_bytes} bytes here: {error}")
    weight = read_tensors(tmp_path)["w"]
    assert weight.shape[0] == num_bytes // 1024
    assert weight[-1].view(torch.uint8).sum() == 0
    weight.view(torch.uint8)[-1, -1] = 1
    with (tmp_path / "model.safetensors").open("rb") as file:
        file.seek(-1, os.SEEK_END)
        assert file.read() == b"\0"


def test_init_holds_one_tensor(config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor is made when it is written, and let go before the next."""
    import weakref

    from wavefold.checkpoint import random

    alive: list[weakref.ref[torch.Tensor]] = []
    maker = random._maker

    def watched(*args: object) -> Callable[[], torch.Tensor]:
        make = maker(*args)  # type: ignore[arg-type]

        def made() -> torch.Tensor:
            assert sum(ref() is not None for ref in alive) <= 1
            tensor = make()
            alive.append(weakref.ref(tensor))
            return tensor

        return made

    monkeypatch.setattr(random, "_maker", watched)
    random.random_checkpoint(config, tmp_path / "model", seed=0)
    assert len(alive) > 50
