"""freetoken's experts on a CPU: its extension `_cpu_moe`, without the engine around it.

Its format "ds_fp4" takes the official bytes. Inputs go through FP8 in blocks of 128, as in DeepSeek's code.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavefold.bench.peers.folder import expert_banks

ACT_BLOCK = 128
SILU = 0
ALPHA = 1.702
"""A parameter of another activation."""


def extension() -> Any:
    """freetoken's extension module. Importing it from the package would ask for a GPU."""
    found = importlib.util.find_spec("freetoken")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("freetoken is not installed", name="freetoken")
    files = sorted((Path(found.origin).parent / "kernel").glob("_cpu_moe*.so"))
    if not files:
        raise OSError("this build of freetoken has no kernel/_cpu_moe")
    spec = importlib.util.spec_from_file_location("_cpu_moe", files[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Experts:
    """The experts of all layers in `folder`. `run` computes what `load` was given."""

    def __init__(
        self, folder: str, num_layers: int, num_experts: int, topk: int, hidden: int, inter: int, limit: float,
        threads: int, max_tokens: int,
    ):  # fmt: skip
        self.num_layers = num_layers
        module = extension()
        self._x = torch.zeros(max_tokens, hidden, dtype=torch.bfloat16)
        self._y = torch.zeros(max_tokens, hidden, dtype=torch.bfloat16)
        self._ids = torch.zeros(max_tokens, topk, dtype=torch.int32)
        self._weights = torch.zeros(max_tokens, topk)
        self._banks = [expert_banks(folder, layer, num_experts) for layer in range(num_layers)]
        self._tables = {role: torch.tensor([bank[role].data_ptr() for bank in self._banks]) for role in self._banks[0]}
        pointers = {role: table.data_ptr() for role, table in self._tables.items()}
        options = {"act_block": ACT_BLOCK, "input_prequant": 0}
        self._executor = module.CpuMoeExecutor(
            num_threads=threads, num_layers=num_layers, num_experts=num_experts, top_k=topk, hidden_size=hidden,
            inter_size=inter, max_tokens=max_tokens, activation_id=SILU, apply_router_weight_on_input=0,
            formats=[("ds_fp4", pointers, options)], layer_formats=[0] * num_layers, swiglu_alpha=ALPHA,
            swiglu_limit=limit, core_ids=sorted(os.sched_getaffinity(0))[:threads], x_ptr=self._x.data_ptr(),
            ids_ptr=self._ids.data_ptr(), w_ptr=self._weights.data_ptr(), y_ptr=self._y.data_ptr(),
        )  # fmt: skip
        self._layer = self._count = 0

    def load(self, layer: int, x: Tensor, ids: Tensor, weights: Tensor) -> None:
        """Copies a call's inputs to where the extension reads them."""
        self._layer, self._count = layer, len(x)
        for buffer, values in ((self._x, x), (self._ids, ids), (self._weights, weights)):
            buffer[: len(x)].copy_(values)

    def run(self) -> None:
        self._executor.run(self._layer, self._count)

    def output(self) -> Tensor:
        return self._y[: self._count]
