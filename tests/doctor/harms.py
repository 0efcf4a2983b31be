"""Copies of a checkpoint folder in which one thing is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from wavefold.chat.special_tokens import EOS

Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor | None]]
"""Tensors of a file to those that take their places; None: it goes."""


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def with_tensors(source: Path, folder: Path, change: Change) -> Path:
    """A copy with other tensors. All of them are given to `change`."""
    copied(source, folder)
    tensors: dict[str, Tensor] = {}
    places: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  no mapping
                tensors[name], places[name] = file.get_tensor(name), path
    changed = change(dict(tensors))
    for path in {places[name] for name in changed}:
        of_file = {name: changed.get(name, tensor) for name, tensor in tensors.items() if places[name] == path}
        save_file({name: t.contiguous() for name, t in of_file.items() if t is not None}, path)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        values = json.loads(index.read_text())
        values["weight_map"] = {k: v for k, v in values["weight_map"].items() if changed.get(k, True) is not None}
        index.write_text(json.dumps(values))
    return folder


def with_json(source: Path, folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy with another JSON file."""
    copied(source, folder)
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    change(values)
    (folder / name).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return folder


def with_config(source: Path, folder: Path, **values: Any) -> Path:
    return with_json(source, folder, "config.json", lambda config: config.update(values))


def doubled(layer: int, place: str = "") -> Change:
    """All scales of a layer, or of one place in it, times two."""

    def change(tensors: dict[str, Tensor]) -> Mapping[str, Tensor]:
        names = [name for name in tensors if name.startswith(f"layers.{layer}.{place}") and name.endswith(".scale")]
        return {name: (tensors[name].view(torch.uint8) + 1).view(tensors[name].dtype) for name in names}

    return change


def swapped(layer: int, one: int, other: int) -> Change:
    def change(tensors: dict[str, Tensor]) -> Mapping[str, Tensor]:
        prefixes = [f"layers.{layer}.ffn.experts.{expert}." for expert in (one, other)]
        return {
            b + name.removeprefix(a): tensors[name]
            for a, b in (prefixes, prefixes[::-1]) for name in tensors if name.startswith(a)
        }  # fmt: skip

    return change


def zeroed(name: str) -> Change:
    return lambda tensors: {name: torch.zeros_like(tensors[name])}


def removed(name: str) -> Change:
    return lambda tensors: {name: None}


def taken_from(other: Path, name: str, like: str | None = None) -> Change:
    """`name` with its scale from another checkpoint, where it may be called `like`."""

    def change(tensors: dict[str, Tensor]) -> Mapping[str, Tensor]:
        found = {}
        for path in other.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                for suffix in ("weight", "scale"):
                    if f"{like or name}.{suffix}" in file.keys():  # noqa: SIM118  no mapping
                        found[f"{name}.{suffix}"] = file.get_tensor(f"{like or name}.{suffix}")
        return found

    return change


def merges_shuffled(tokenizer: dict[str, Any]) -> None:
    """Every second of the later merges comes in reverse order."""
    merges = tokenizer["model"]["merges"]
    half = len(merges) // 4
    merges[half::2] = merges[half::2][::-1]


def without_end_mark(config: dict[str, Any]) -> None:
    config["chat_template"] = config["chat_template"].replace(f" + '{EOS}'", "")
