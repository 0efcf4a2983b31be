"""Deliberate harms to a copy of the shipped model: each a mistake of a converter or a kernel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from wavefold import ops, random_checkpoint
from wavefold.config import ModelConfig
from wavefold.locate import DEFAULT_MODEL
from wavefold.quality.subject import Subject

Tensors = dict[str, Tensor]


def copy(folder: Path) -> Path:
    """A copy of the shipped model in the new `folder`."""
    shutil.copytree(DEFAULT_MODEL, folder)
    return folder


def edit_tensors(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    """`edit` gets each file's tensors and returns what replaces them."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if changed := edit(tensors):
            save_file(tensors | changed, path)


def edit_json(path: Path, edit: Callable[[dict], None]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def double_scales(folder: Path) -> None:
    """All scales of layer 2's dense matrices are twice as large: an exponent that is off by one."""

    def edit(tensors: Tensors) -> Tensors:
        return {
            name: (tensor.view(torch.uint8) + 1).view(tensor.dtype)
            for name, tensor in tensors.items()
            if name.startswith("layers.2.attn.") and name.endswith(".scale")
        }

    edit_tensors(folder, edit)


def swap_experts(folder: Path) -> None:
    """Experts 0 and 1 of layer 3 have each other's matrices."""

    def edit(tensors: Tensors) -> Tensors:
        first, second = "layers.3.ffn.experts.0.", "layers.3.ffn.experts.1."
        pairs = {first: second, second: first}
        return {
            other + name.removeprefix(one): tensor
            for name, tensor in tensors.items()
            for one, other in pairs.items()
            if name.startswith(one)
        }

    edit_tensors(folder, edit)


def drop_router_bias(folder: Path) -> None:
    """The bias by which layer 3's router chooses is 0."""
    edit_tensors(folder, lambda t: {n: torch.zeros_like(x) for n, x in t.items() if n == "layers.3.ffn.gate.bias"})


def other_tensor(folder: Path) -> None:
    """One matrix of layer 1 is that of another checkpoint."""
    config = ModelConfig.from_file(folder)
    other = folder.with_name("other")
    random_checkpoint(config, other, seed=5)
    found: Tensors = {}
    for path in sorted(other.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith("layers.1.attn.wo_b.")]  # noqa: SIM118
            found |= {name: file.get_tensor(name) for name in names}
    edit_tensors(folder, lambda tensors: {name: found[name] for name in tensors if name in found})
    shutil.rmtree(other)


def _config(key: str, value: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", lambda values: values.update({key: value}))


def wrong_merges(folder: Path) -> None:
    """A quarter of the merges, the last learned ones, are lost."""

    def edit(values: dict) -> None:
        merges = values["model"]["merges"]
        del merges[len(merges) * 3 // 4 :]

    edit_json(folder / "tokenizer.json", edit)


def no_end_mark(folder: Path) -> None:
    """The chat template writes no end mark after an answer."""

    def edit(values: dict) -> None:
        values["chat_template"] = values["chat_template"].replace("+ '<｜end▁of▁sentence｜>'", "")

    edit_json(folder / "tokenizer_config.json", edit)


HARMS: dict[str, Callable[[Path], None]] = {
    "a layer's scales doubled": double_scales,
    "two experts swapped": swap_experts,
    "router bias dropped": drop_router_bias,
    "rope base changed": _config("rope_theta", 20000.0),
    "indexer top-k halved": _config("index_topk", 64),
    "wrong tokenizer merges": wrong_merges,
    "template without the end mark": no_end_mark,
    "one tensor of another checkpoint": other_tensor,
}
"""Harms to files."""


def window_127(subject: Subject) -> None:
    """Attention sees one token less than it should. A configuration that says so is refused where it is read."""
    for block in subject.model.layers:
        block.attn.window -= 1


@contextmanager
def kv_rounded_twice() -> Iterator[None]:
    """Stored KV goes through FP8 with a scale of its row before it is rounded as released arithmetic does.

    The references compute then; a file cannot do this harm.
    """
    usual = ops.kv_sim

    def twice(entries: Tensor, rope_dim: int, arithmetic: object) -> Tensor:
        split = entries.shape[-1] - rope_dim
        plain = entries[..., :split].float()
        scale = plain.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 448
        first = ((plain / scale).to(torch.float8_e4m3fn).float() * scale).to(entries.dtype)
        return usual(torch.cat([first, entries[..., split:]], -1), rope_dim, arithmetic)

    with pytest.MonkeyPatch.context() as patch, ops.using(backend="reference"):
        patch.setattr(ops, "kv_sim", twice)
        yield
