"""kt-kernel's experts in MXFP4. It reads the official files, and computes with activations in bfloat16."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def without_pinning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch's function without `pin_memory`: a torch without CUDA refuses it, and the kernel does not need it."""

    @functools.wraps(make)
    def unpinned(*args: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        return make(*args, **options)

    return unpinned


class Experts:
    """The experts of all layers in `folder`. `run` computes what `load` was given."""

    def __init__(
        self, folder: str, num_layers: int, num_experts: int, topk: int, hidden: int, inter: int, limit: float,
        threads: int, max_tokens: int,
    ):  # fmt: skip
        self.num_layers, self._topk = num_layers, topk
        if not torch.cuda.is_available():
            for name in ("empty", "zeros", "full"):
                setattr(torch, name, without_pinning(getattr(torch, name)))
        wrapper = importlib.import_module("kt_kernel").KTMoEWrapper
        self._layers = [
            wrapper(
                layer_idx=layer, num_experts=num_experts, num_experts_per_tok=topk, hidden_size=hidden,
                moe_intermediate_size=inter, gpu_experts_mask=None, cpuinfer_threads=threads, threadpool_count=1,
                weight_path=folder, chunked_prefill_size=max_tokens, method="MXFP4", swiglu_limit=limit,
            )
            for layer in range(num_layers)
        ]  # fmt: skip
        for layer in self._layers:
            layer.load_weights(torch.arange(num_experts))
        self._inputs: tuple[int, Tensor, Tensor, Tensor, Tensor, Tensor]

    def load(self, layer: int, x: Tensor, ids: Tensor, weights: Tensor) -> None:
        count = torch.tensor([len(x)], dtype=torch.int32)
        self._inputs = layer, count, ids.contiguous(), weights.contiguous(), x.contiguous(), torch.empty_like(x)

    def run(self) -> None:
        number, count, *tensors = self._inputs
        layer = self._layers[number]
        task = layer.moe.forward_task(count.data_ptr(), self._topk, *(tensor.data_ptr() for tensor in tensors), False)
        layer.cpu_infer.submit(task)
        layer.cpu_infer.sync()

    def output(self) -> Tensor:
        return self._inputs[-1]
