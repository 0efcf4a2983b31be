"""These kernels as a contestant among the peers, by the op that the model's layers use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wavefold.bench.peers.folder import expert_name, read_layer
from wavefold.ops import native
from wavefold.quant import Weight


class Experts:
    """The experts of all layers in `folder`. `run` computes what `load` was given."""

    def __init__(
        self, folder: str, num_layers: int, num_experts: int, topk: int, hidden: int, inter: int, limit: float,
        threads: int, max_tokens: int, released: bool,
    ):  # fmt: skip
        self.num_layers, self._limit, self._released = num_layers, limit, released
        self._layers = [layer_weights(folder, layer, num_experts) for layer in range(num_layers)]
        self._buffers: native.PassBuffers
        self._call: Callable[[], object]

    def load(self, layer: int, x: Tensor, ids: Tensor, weights: Tensor) -> None:
        from wavefold.bench.products import experts_call

        n, hidden = x.shape
        streams = torch.zeros(n, 1, hidden, dtype=torch.bfloat16)
        self._buffers = buffers = native.PassBuffers(torch.zeros(n, dtype=torch.int64), streams, ids.shape[1])
        for buffer, values in ((buffers.h, x), (buffers.chosen, ids), (buffers.route, weights)):
            buffer.copy_(values)
        self._call = experts_call(self._layers[layer], buffers, self._limit, self._released)

    def run(self) -> None:
        self._call()

    def output(self) -> Tensor:
        return self._buffers.output


def layer_weights(folder: str, layer: int, num_experts: int) -> list[tuple[Weight, Weight, Weight]]:
    """A layer's experts (w1, w2, w3) in their stored bytes."""
    tensors = read_layer(folder, layer)

    def weight(expert: int, matrix: str) -> Weight:
        codes, scales = (tensors[expert_name(layer, expert, matrix, part)] for part in ("weight", "scale"))
        return Weight.of(codes, scales)

    return [(weight(e, "w1"), weight(e, "w2"), weight(e, "w3")) for e in range(num_experts)]
