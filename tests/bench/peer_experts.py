"""A peer for tests: experts in plain float32, from the files alone. It doubles its results where it is told to."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from wavefold.bench.peers.folder import expert_name, read_layer
from wavefold.quant import Weight


class Experts:
    def __init__(self, folder: str, num_layers: int, num_experts: int, limit: float, **others: Any):
        if os.environ.get("TEST_PEER") == "refuses":
            raise OSError("no such instruction")
        print("words of a library, which are no answer")
        self.num_layers, self.limit = num_layers, limit
        self.layers = [read_layer(folder, layer) for layer in range(num_layers)]

    def load(self, layer: int, x: Tensor, ids: Tensor, weights: Tensor) -> None:
        self.inputs = layer, x.float(), ids, weights

    def run(self) -> None:
        layer, x, ids, weights = self.inputs
        if os.environ.get("TEST_PEER") == "fails" and len(x) == 3:
            raise RuntimeError("three tokens are too many")
        self.y = torch.zeros_like(x)
        for row in range(len(x)):
            for expert, weight in zip(ids[row].tolist(), weights[row], strict=True):
                w1, w2, w3 = (self.matrix(layer, expert, name) for name in ("w1", "w2", "w3"))
                gate, up = (w1 @ x[row]).clamp(max=self.limit), (w3 @ x[row]).clamp(-self.limit, self.limit)
                self.y[row] += weight * (w2 @ (silu(gate) * up))

    def output(self) -> Tensor:
        return self.y * (2 if os.environ.get("TEST_PEER") == "doubles" else 1)

    def matrix(self, layer: int, expert: int, name: str) -> Tensor:
        codes, scales = (self.layers[layer][expert_name(layer, expert, name, part)] for part in ("weight", "scale"))
        return Weight.of(codes, scales).decode(torch.float32)
