"""Inputs that all contestants get: random experts in the official layout, random tokens with routes. Float64 results.

Folder: experts-LAYER.safetensors, case-TOKENS.safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wavefold.bench.matrices import drawn
from wavefold.bench.peers.folder import expert_name
from wavefold.bench.peers.ours import layer_weights
from wavefold.bench.products import ExpertShape

CHECKED_TOKENS = 16
"""Tokens of a call that are compared with float64, at most."""


def write_experts(folder: Path, shape: ExpertShape, num_layers: int) -> None:
    """Write random experts in FP4, a file for each layer."""
    for layer in range(num_layers):
        tensors: dict[str, Tensor] = {}
        for expert in range(shape.num_experts):
            for number, matrix in enumerate(("w1", "w2", "w3")):
                rows, columns = (shape.hidden, shape.inter) if matrix == "w2" else (shape.inter, shape.hidden)
                parts = drawn("fp4", rows, columns, (layer * shape.num_experts + expert) * 3 + number)
                for part, tensor in zip(("weight", "scale"), parts, strict=True):
                    assert tensor is not None
                    tensors[expert_name(layer, expert, matrix, part)] = tensor
        save_file(tensors, folder / f"experts-{layer}.safetensors")


def write_case(path: Path, shape: ExpertShape, num_tokens: int, num_calls: int) -> dict[str, Tensor]:
    """Write and return the inputs of some calls: x in RMS 1, `topk` distinct experts a token, weights that sum to 1."""
    generator = torch.Generator().manual_seed(num_tokens)
    scores = torch.rand(num_calls, num_tokens, shape.num_experts, generator=generator)
    weights, ids = scores.topk(shape.topk)
    case = {
        "x": torch.randn(num_calls, num_tokens, shape.hidden, generator=generator).bfloat16(),
        "ids": ids.contiguous(),
        "weights": (weights / weights.sum(-1, keepdim=True)).contiguous(),
    }
    save_file(case, path)
    return case


def expected(folder: Path, shape: ExpertShape, case: dict[str, Tensor]) -> Tensor:
    """The first call's results in float64 [tokens, hidden], of the first layer's experts and the first tokens."""
    count = min(CHECKED_TOKENS, case["x"].shape[1])
    x, ids, weights = (case[name][0, :count] for name in ("x", "ids", "weights"))
    out = torch.zeros(count, shape.hidden, dtype=torch.float64)
    layer = layer_weights(str(folder), 0, shape.num_experts)
    for expert in ids.unique().tolist():
        rows, slots = (ids == expert).nonzero(as_tuple=True)
        route = weights[rows, slots, None].double()
        w1, w2, w3 = (weight.decode(torch.float64) for weight in layer[expert])
        gate, up = x[rows].double() @ w1.T, x[rows].double() @ w3.T
        inner = torch.nn.functional.silu(gate.clamp(max=shape.limit)) * up.clamp(-shape.limit, shape.limit)
        out.index_add_(0, rows, (inner * route) @ w2.T)
    return out


def error_of(y: Tensor, reference: Tensor) -> float:
    """RMS of the difference over RMS of the reference, over the rows that the reference has."""
    difference = y[: len(reference)].double() - reference
    return float(difference.pow(2).mean().sqrt() / reference.pow(2).mean().sqrt())
