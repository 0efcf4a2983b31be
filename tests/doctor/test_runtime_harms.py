"""Harms of the runtime, put into it while the doctor looks: a healthy file, and kernels or caches that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small import small_model
from wavefold import ops
from wavefold.cache.record import KVRecord
from wavefold.cache.sequence import Sequence
from wavefold.chat import byte_tokenizer
from wavefold.checkpoint import random_checkpoint
from wavefold.config import ModelConfig
from wavefold.doctor import CHECKS, Finding, Patient, examine
from wavefold.experts.streamed import StreamedExperts
from wavefold.locate import default_model
from wavefold.model import cpu_layers
from wavefold.ops import native

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("small") / "model")


def failures(path: Path, *checks: str) -> list[Finding]:
    names = ("structure", "load", *checks)
    return examine(Patient(path, seconds=1e9), checks=[check for check in CHECKS if check.name in names]).failures


def changed(patch: Patch, owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    patch.setattr(owner, name, change(getattr(owner, name)))


def rounded_before(x: Tensor) -> Tensor:
    """x through e4m3 by 128 columns, under scales that are no powers of two."""
    parts = []
    for piece in x.float().split(128, -1):
        scale = piece.abs().amax(-1, keepdim=True).clamp_min(1e-4) / 448
        parts.append((piece / scale).to(torch.float8_e4m3fn).float() * scale)
    return torch.cat(parts, -1).to(x.dtype)


def test_kv_rounded_twice(monkeypatch: Patch) -> None:
    changed(monkeypatch, ops, "kv_sim", lambda f: lambda kv, *args: f(rounded_before(kv), *args))
    found = failures(default_model(), "layers")
    assert [finding.part for finding in found if "KV" in finding.part] == [f"layers.{i} KV" for i in range(4)]


def test_kv_rounded_again_where_it_is_stored(monkeypatch: Patch, small: Path) -> None:
    changed(monkeypatch, KVRecord, "encode", lambda f: lambda self, rows: f(self, rounded_before(rows)))
    assert {finding.part for finding in failures(small, "layers")} >= {"layers.0 KV", "layers.1 KV", "layers.2 KV"}


@pytest.mark.parametrize(("field", "layer", "change"),
                         [("window", 0, lambda n: n - 1), ("window", 2, lambda n: n // 2), ("iters", 2, lambda n: 1),
                          ("route_scale", 2, lambda x: 1.1 * x), ("norm_eps", 2, lambda x: 1e-1)])  # fmt: skip
def test_kernels_with_another_number(
    field: str, layer: int, change: Callable[[Any], Any], monkeypatch: Patch
) -> None:  # fmt: skip
    """Each layer is told apart from plain torch. One row of a window beside entries is 0.3 %, as is a rounding."""

    def fields(f: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def changed_fields(block: Any, *args: Any) -> dict[str, Any]:
            values = f(block, *args)
            return values | ({field: change(values[field])} if block.attn.layer == layer else {})

        return changed_fields

    changed(monkeypatch, cpu_layers, "_fields", fields)
    found = [finding.part for finding in failures(default_model(), "layers") if "KV" not in finding.part]
    assert found == [f"layers.{layer}"]


def test_a_product_that_is_off(monkeypatch: Patch, small: Path) -> None:
    changed(monkeypatch, native, "linear", lambda f: lambda *args, **more: 1.02 * f(*args, **more))
    assert {finding.part for finding in failures(small, "products")} == {f"kernels {isa}" for isa in ops.isas()}


def test_a_snapshot_that_forgets(monkeypatch: Patch, small: Path) -> None:
    def forgetful(f: Callable[..., Any]) -> Callable[..., Any]:
        def snapshot(self: Sequence) -> Any:
            taken = f(self)
            taken.state.buffer[: len(taken.state.buffer) // 2] = 0
            return taken

        return snapshot

    changed(monkeypatch, Sequence, "snapshot", forgetful)
    assert [finding.part for finding in failures(small, "runs")] == ["fork"]


def test_a_streamed_expert_that_was_not_read(monkeypatch: Patch, small: Path) -> None:
    """Its slot has the bytes of the layer's first one."""
    first: dict[int, Any] = {}

    def mixed(f: Callable[..., Any]) -> Callable[..., Any]:
        def groups(self: StreamedExperts, layer: int, ids: Any, in_order: bool = True) -> Iterator[Any]:
            for view in f(self, layer, ids, in_order):
                for expert, weights in list(view._experts.items()):
                    view._experts[expert] = first.setdefault(layer, weights.map(torch.clone))
                yield view

        return groups

    changed(monkeypatch, StreamedExperts, "groups", mixed)
    assert [finding.part for finding in failures(small, "streamed")] == ["streamed experts"]


def test_without_a_harm(small: Path) -> None:
    assert failures(small, "products", "layers", "runs", "streamed") == []


def test_a_near_tie_of_experts_is_no_harm(tmp_path: Path) -> None:
    """One token of 144 goes to another expert in layer 3: 9 % of what the layer adds."""
    random_checkpoint(ModelConfig.preset("nano").cut(4, 8), tmp_path / "model", 10, finish=byte_tokenizer().save)
    assert failures(tmp_path / "model", "layers") == []


@pytest.mark.parametrize("change", [lambda n: n, lambda n: n - 1])
def test_a_window_of_a_wide_model(change: Callable[[int], int], monkeypatch: Patch, tmp_path: Path) -> None:
    """With 2,048 columns roundings fall otherwise in each token: more than in a narrow model, less than a harm."""
    config = ModelConfig.preset("flash").cut(2, 8, 512).replace(hidden_size=2048, num_attention_heads=32)
    random_checkpoint(config, tmp_path / "model", 2, finish=byte_tokenizer().save)

    def fields(f: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        return lambda *args: (values := f(*args)) | {"window": change(values["window"])}

    changed(monkeypatch, cpu_layers, "_fields", fields)
    found = [finding.part for finding in failures(tmp_path / "model", "layers")]
    assert ("layers.0" in found) == (change(2) != 2)
