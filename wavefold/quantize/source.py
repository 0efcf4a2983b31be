"""The checkpoint that is quantized: an official folder, mapped, with its tensors' values one at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wavefold.checkpoint.files import map_tensors, read_refs
from wavefold.config import read_config
from wavefold.experts.table import MATRICES, routed_expert
from wavefold.quant import Weight


class Source:
    """A checkpoint folder. Nothing is read before it is asked for."""

    def __init__(self, folder: Path):
        """Raises ValueError for a folder that is no checkpoint, and for one without all main layers' experts."""
        self.folder = folder
        self.config, self.values = read_config(folder)
        self._tensors = map_tensors(read_refs(folder).refs)
        lost = [
            name
            for layer in range(self.config.num_hidden_layers)
            for expert in range(self.config.n_routed_experts)
            for matrix in MATRICES
            if (name := f"{expert_name(layer, expert, matrix)}.weight") not in self._tensors
        ]
        if lost:
            raise ValueError(f"{folder}: lacks {len(lost)} tensors of routed experts, {lost[0]} first")

    @property
    def names(self) -> list[str]:
        """Names of all tensors, routed experts and scales included."""
        return list(self._tensors)

    @property
    def dense_names(self) -> list[str]:
        """Names of the main layers' tensors outside the routed experts, embedding and head included; no scales."""
        return [
            name for name in self._tensors
            if routed_expert(name) is None and not name.startswith("mtp.") and not self.is_scale(name)
        ]  # fmt: skip

    @property
    def all_experts(self) -> list[list[int]]:
        """The numbers of each main layer's experts."""
        return [list(range(self.config.n_routed_experts))] * self.config.num_hidden_layers

    def is_scale(self, name: str) -> bool:
        """True for the scales of a matrix."""
        return name.endswith(".scale") and f"{name.removesuffix('.scale')}.weight" in self._tensors

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor as it is stored."""
        return self._tensors[name]

    def weight(self, name: str) -> Weight:
        """Returns a matrix as it is stored, with its scales; `name` ends in ".weight" or has no scales."""
        scale = self._tensors.get(f"{name.removesuffix('.weight')}.scale") if name.endswith(".weight") else None
        codes = self._tensors[name]
        return Weight.of(codes.view(torch.int8) if codes.dtype == torch.uint8 else codes, scale)

    def expert(self, layer: int, expert: int, matrix: str) -> Weight:
        """Returns a matrix of a routed expert: w1, w2 or w3."""
        return self.weight(f"{expert_name(layer, expert, matrix)}.weight")

    def expert_format(self) -> str:
        """Returns the name of the format in which the first routed expert is stored."""
        return self.expert(0, 0, "w1").format.name


def expert_name(layer: int, expert: int, matrix: str) -> str:
    """Returns the official name of a routed expert's matrix, before `.weight` and `.scale`."""
    return f"layers.{layer}.ffn.experts.{expert}.{matrix}"
