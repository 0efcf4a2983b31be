"""Routed experts in files of the official layout, as a peer's process reads them: without the model around them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def expert_name(layer: int, expert: int, matrix: str, part: str) -> str:
    """The official name of an expert's tensor: `matrix` is w1, w2 or w3, `part` weight or scale."""
    return f"layers.{layer}.ffn.experts.{expert}.{matrix}.{part}"


def read_layer(folder: str, layer: int) -> dict[str, Tensor]:
    """All tensors of a layer's experts by official name, mapped from its file."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(Path(folder) / f"experts-{layer}.safetensors")
    return tensors


def expert_banks(folder: str, layer: int, num_experts: int) -> dict[str, Tensor]:
    """A layer's experts in four tensors: gate_up [experts, 2 inter, hidden / 2] (w1, then w3), down, their scales."""
    tensors = read_layer(folder, layer)

    def bank(matrices: tuple[str, ...], part: str) -> Tensor:
        rows = (
            torch.cat([tensors[expert_name(layer, expert, matrix, part)].view(torch.uint8) for matrix in matrices])
            for expert in range(num_experts)
        )
        return torch.stack(list(rows))

    return {
        "gate_up": bank(("w1", "w3"), "weight"), "gate_up_scale": bank(("w1", "w3"), "scale"),
        "down": bank(("w2",), "weight"), "down_scale": bank(("w2",), "scale"),
    }  # fmt: skip
