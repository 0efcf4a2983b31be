"""Weights copied into huge pages: the same values, refused with numbers, and a plain error where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wavefold.checkpoint import load, room, save
from wavefold.checkpoint.random import random_model
from wavefold.config import ModelConfig
from wavefold.experts.mapped import MappedSpan
from wavefold.system import check_huge_pages, huge_bytes
from wavefold.system.huge_pages import SETTING

HUGE = 2 << 20


def allowed() -> bool:
    try:
        check_huge_pages()
    except ValueError:
        return False
    return True


needs_huge_pages = pytest.mark.skipif(not allowed(), reason="the system gives no huge pages")


def test_what_the_system_says(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="huge_pages = True needs Linux with transparent huge pages"):
        check_huge_pages(tmp_path)
    file = tmp_path / SETTING
    file.parent.mkdir(parents=True)
    file.write_text("always madvise [never]\n")
    with pytest.raises(ValueError, match=r"says always madvise \[never\]; expected \[madvise\] or \[always\] there"):
        check_huge_pages(tmp_path)
    for text in ("always [madvise] never\n", "[always] madvise never\n"):
        file.write_text(text)
        check_huge_pages(tmp_path)


def test_bytes_in_huge_pages(tmp_path: Path) -> None:
    assert huge_bytes(tmp_path) == (0, 0)
    file = tmp_path / "proc/self/smaps_rollup"
    file.parent.mkdir(parents=True)
    file.write_text("55d0-7ffc ---p [rollup]\nRss:  99 kB\nAnonHugePages:   4096 kB\nFilePmdMapped:  2048 kB\n")
    assert huge_bytes(tmp_path) == (4 << 20, 2 << 20)


@needs_huge_pages
def test_a_copy_has_the_bytes_and_the_pages(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * (1 << 16))
    before = huge_bytes()[0]
    span = MappedSpan(file, 5000, 16 << 20, copied=True)
    expected = torch.arange(5000, 16 << 20).remainder(256).to(torch.uint8)
    assert torch.equal(span.tensor(5000, torch.uint8, ((16 << 20) - 5000,)), expected)
    file.write_bytes(b"")  # the copy does not need it
    assert torch.equal(span.tensor(5000, torch.uint8, ((16 << 20) - 5000,)), expected)
    assert huge_bytes()[0] >= before  # the kernel may be out of free ones
    with pytest.raises(ValueError, match="ends at byte 0, expected 100 bytes"):
        MappedSpan(file, 0, 100, copied=True)


@needs_huge_pages
def test_a_model_is_the_same(tmp_path: Path) -> None:
    config = ModelConfig.preset("nano")
    save(random_model(config, seed=0), tmp_path / "model")
    copied = load(tmp_path / "model", huge_pages=True)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    mapped = load(tmp_path / "model")
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    for (name, one), (_, other) in zip(mapped.named_parameters(), copied.named_parameters(), strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8)), name
    for layer in range(config.num_hidden_layers):
        for expert in range(config.n_routed_experts):
            pair = zip(
                mapped.experts.store.stored(layer, expert), copied.experts.store.stored(layer, expert), strict=True
            )
            assert all(torch.equal(one.codes.view(torch.uint8), two.codes.view(torch.uint8)) for one, two in pair)


@needs_huge_pages
def test_refusals_have_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(random_model(ModelConfig.preset("nano"), seed=0), tmp_path / "model")
    asked = []

    def refuse(num_bytes: int, subject: str, advice: str, mapped_bytes: int = 0) -> None:
        asked.append(num_bytes)
        if num_bytes:
            raise ValueError(f"{subject} takes {num_bytes}; expected {advice}")

    monkeypatch.setattr(room, "check_memory", refuse)
    with pytest.raises(ValueError, match=r"a copy of its weights in huge pages takes .* expected huge_pages = False"):
        load(tmp_path / "model", huge_pages=True)
    size = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    assert 0.9 * size < asked[-1] <= size  # all but the headers
    load(tmp_path / "model")
    with pytest.raises(ValueError, match="not allowed with device = meta"):
        room.check_copy(tmp_path, 1, torch.device("meta"))
