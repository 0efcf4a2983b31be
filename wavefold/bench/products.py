"""Products that are timed alone: one stored matrix, or a layer's routed experts, with some rows of x.

Weights are random, and so many that a product finds none of its own in a cache: each run goes on where the last one
ended. The routes of experts are random, `topk` distinct experts for each row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from wavefold.bench.matrices import matrices, stored_bytes
from wavefold.config import ModelConfig
from wavefold.ops import native
from wavefold.quant import FORMATS, Weight

RUN_OPERATIONS = 2e10
"""Operations of a run at most, unless a single product has more: a tenth of a second on two cores."""
RUN_BYTES = 1 << 30
ROUTES = 8
"""Random routes of each number of rows, taken in turn."""


class Subject(Protocol):
    """A product to time. `name` describes it."""

    name: str

    def amounts(self, x_rows: int) -> tuple[float, float]:
        """Returns the bytes of weights that a product meets, each once, and its operations."""
        ...

    def seconds(self, x_rows: int) -> float:
        """Returns the seconds of one product, as the mean of a run."""
        ...


def timed(calls: list[Callable[[], object]], first: int, count: int) -> float:
    """Returns the seconds a call, over `count` of the calls from `first` on, in a ring."""
    began = time.perf_counter()
    for i in range(first, first + count):
        calls[i % len(calls)]()
    return (time.perf_counter() - began) / count


def calls_in_a_run(num_calls: int, num_bytes: float, operations: float) -> int:
    """Returns how many calls a run has: all, unless they are too much work."""
    return max(1, min(num_calls, int(RUN_OPERATIONS / operations), int(RUN_BYTES / num_bytes)))


class Dense:
    """y = x Wᵀ with matrices [rows, columns] in the format `form`, `num_bytes` of them in all."""

    def __init__(self, form: str, rows: int, columns: int, num_bytes: int, released: bool):
        """`released`: x goes through FP8 before it meets a quantized matrix."""
        self.name, self.form, self.shape = f"{form} {rows}x{columns}", form, (rows, columns)
        self._weights = matrices(form, rows, columns, num_bytes)
        self._x_fp8 = released and FORMATS[form].is_quantized
        self._next = 0

    def amounts(self, x_rows: int) -> tuple[float, float]:
        rows, columns = self.shape
        return stored_bytes(self.form, rows, columns), 2 * x_rows * rows * columns

    def seconds(self, x_rows: int) -> float:
        x = torch.randn(x_rows, self.shape[1], generator=torch.Generator().manual_seed(x_rows)).bfloat16()
        calls: list[Callable[[], object]] = [
            partial(native.linear, x, weight, torch.bfloat16, self._x_fp8) for weight in self._weights
        ]
        count = calls_in_a_run(len(calls), *self.amounts(x_rows))
        first, self._next = self._next, self._next + count
        return timed(calls, first, count)


@dataclass(frozen=True)
class ExpertShape:
    """Sizes of a layer's routed experts. `limit` is the clamp of SwiGLU's inputs."""

    hidden: int
    inter: int
    num_experts: int
    topk: int
    limit: float

    @property
    def bytes_each(self) -> int:
        """Bytes of an expert in FP4."""
        return 2 * stored_bytes("fp4", self.inter, self.hidden) + stored_bytes("fp4", self.hidden, self.inter)


def expert_shape(config: ModelConfig, num_experts: int, num_layers: int) -> ExpertShape:
    """Returns the sizes of `config` with fewer experts. Raises ValueError for numbers that cannot be."""
    topk = config.num_experts_per_tok
    if num_experts < topk or num_layers < 1:
        raise ValueError(
            f"--experts {num_experts} --layers {num_layers} are not allowed; expected {topk} or more experts, since a "
            "token chooses so many, and 1 or more layers"
        )
    return ExpertShape(config.hidden_size, config.moe_intermediate_size, num_experts, topk, config.swiglu_limit)


class Experts:
    """Routed experts in FP4, `num_layers` layers of them in turn, by the op that the model's layers use."""

    form = "fp4"

    def __init__(self, shape: ExpertShape, num_layers: int, released: bool):
        self.name = f"experts {shape.inter}x{shape.hidden}"
        self.shape, self._released = shape, released
        count = num_layers * shape.num_experts
        up = matrices("fp4", shape.inter, shape.hidden, 2 * count * stored_bytes("fp4", shape.inter, shape.hidden))
        down = matrices("fp4", shape.hidden, shape.inter, count * stored_bytes("fp4", shape.hidden, shape.inter))
        triples = list(zip(up[:count], down, up[count:], strict=False))
        self.layers = [triples[i : i + shape.num_experts] for i in range(0, count, shape.num_experts)]
        self._calls: dict[int, list[Callable[[], object]]] = {}
        self._next = 0

    def routes(self, x_rows: int) -> list[Tensor]:
        """Chosen experts [x_rows, topk] of each call of a ring."""
        generator = torch.Generator().manual_seed(x_rows)
        scores = torch.rand(ROUTES, x_rows, self.shape.num_experts, generator=generator)
        return list(scores.argsort(-1)[..., : self.shape.topk])

    def distinct(self, x_rows: int) -> float:
        """Distinct experts of a call, as the mean over the ring."""
        return sum(len(chosen.unique()) for chosen in self.routes(x_rows)) / ROUTES

    def amounts(self, x_rows: int) -> tuple[float, float]:
        shape = self.shape
        operations = 6 * x_rows * shape.topk * shape.hidden * shape.inter
        return self.distinct(x_rows) * shape.bytes_each, operations

    def seconds(self, x_rows: int) -> float:
        if (calls := self._calls.get(x_rows)) is None:
            calls = self._calls[x_rows] = self._ring(x_rows)
        count = calls_in_a_run(len(calls), *self.amounts(x_rows))
        first, self._next = self._next, self._next + count
        return timed(calls, first, count)

    def _ring(self, x_rows: int) -> list[Callable[[], object]]:
        """A call for each route and layer."""
        calls: list[Callable[[], object]] = []
        routes = self.routes(x_rows)
        for number in range(math.lcm(ROUTES, len(self.layers))):
            chosen = routes[number % ROUTES]
            buffers = buffers_of(self.shape, chosen)
            layer = self.layers[number % len(self.layers)]
            calls.append(experts_call(layer, buffers, self.shape.limit, self._released))
        return calls


def buffers_of(shape: ExpertShape, chosen: Tensor) -> native.PassBuffers:
    """Returns a pass's buffers for random rows with these experts [n, topk]. Its routing weights are 1 / topk."""
    n = len(chosen)
    buffers = native.PassBuffers(
        torch.zeros(n, dtype=torch.int64), torch.zeros(n, 1, shape.hidden, dtype=torch.bfloat16), shape.topk
    )
    buffers.h.copy_(torch.randn(n, shape.hidden, generator=torch.Generator().manual_seed(n)))
    buffers.chosen.copy_(chosen)
    buffers.route.fill_(1 / shape.topk)
    return buffers


def experts_call(
    layer: list[tuple[Weight, Weight, Weight]], buffers: native.PassBuffers, limit: float, released: bool
) -> Callable[[], object]:
    """Returns a call of the op on a layer's experts (w1, w2, w3). The result is buffers.output."""
    structs = [native.expert_struct(expert, layer[expert]) for expert in buffers.distinct_experts()]
    return partial(native.experts, structs, limit, released, buffers, native.ranges([]))
