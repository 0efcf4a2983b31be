"""A layer's routed experts over ranks as one differentiable function: forward in waves, backward in waves.

Between the passes a rank keeps the inputs of its experts and the graph of each expert. The backward pass computes the
gradients of rows first, since they have to travel. It computes the gradients of weights while the last results return.
Report section 3.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wavefold.waves import wire as wires
from wavefold.waves.exchange import Exchange, Received, Settings, ask, gather_rows, known, sum_by_slot
from wavefold.waves.routes import Routes
from wavefold.waves.transport import Program, Transport

Compute = Callable[[int, Tensor, Sequence[Tensor], Tensor], Tensor]
"""(expert, rows [n, hidden], weights of the expert, routing weights [n, 1] float32) -> [n, hidden]."""


class Pass:
    """One layer's pass over the tokens of a rank: `forward`, then optionally `backward`. Each is a `Program`."""

    def __init__(self, transport: Transport, settings: Settings, compute: Compute):
        if transport.size != settings.waves.num_ranks:
            raise ValueError(f"{transport.size} ranks are not allowed; the schedule has {settings.waves.num_ranks}")
        self.transport, self.settings, self.compute = transport, settings, compute
        self.local = settings.waves.experts_of(transport.rank)
        self.computed: list[tuple[int, float, float]] = []
        """(wave, start, end) of the computation of each wave, by `time.perf_counter`."""

    def forward(
        self, h: Tensor, weights: Tensor, ids: Tensor, experts: Mapping[int, Sequence[Tensor]], learns: bool = False
    ) -> Program[Tensor]:
        """h [n, hidden], weights [n, k] float32, ids [n, k] -> the sum of each token's experts [n, hidden].

        `experts`: weights of the experts on this rank. `learns`: keep the graphs that `backward` needs.
        """
        self.routes = Routes(self.settings.waves, ids)
        self.received: Received = yield from ask(self.transport, self.settings, self.routes, weights)
        self.experts, self.learns, self.dtype = experts, learns, h.dtype
        self._graphs: dict[int, tuple[Tensor, Tensor, list[Tensor], Tensor]] = {}
        results, _ = yield from Exchange(
            self.transport, self.settings, self.routes, self.received, h.detach(), self.settings.wire,
            self._forward_wave,
        ).run()  # fmt: skip
        return sum_by_slot(results, self.routes, h.dtype)

    def forward_shared(
        self, h: Tensor, weights: Tensor, ids: Tensor, experts: Mapping[int, Sequence[Tensor]]
    ) -> Program[Tensor]:
        """The same sum for rows that every rank already has. Returns all rows on all ranks, without gradients.

        The result has the type of `settings.back`. Each rank asks for its share of the rows. Only results travel, in
        waves.
        """
        size, me, settings = self.transport.size, self.transport.rank, self.settings
        routes = [Routes(settings.waves, part) for part in _shares(ids, size)]
        self.routes = routes[me]
        self.received = known(settings, me, routes, _shares(weights, size))
        self.experts, self.learns, self.dtype = experts, False, h.dtype
        here = [part[torch.cat([rows[me] for rows in portion.rows]).to(h.device)]
                for part, portion in zip(_shares(h, size), routes, strict=True)]  # fmt: skip
        results, _ = yield from Exchange(
            self.transport, settings, self.routes, self.received, h, settings.wire, self._forward_wave, here=here
        ).run()
        local = sum_by_slot(results, self.routes, wires.DTYPES[settings.back])
        whole: Tensor = yield from gather_rows(self.transport, local, [len(part) for part in _shares(ids, size)])
        return whole

    def _pairs(self, expert: int) -> list[slice]:
        """Returns the slice of an expert's pairs in the list of each source rank."""
        number = expert - self.local.start
        return [slice(*firsts[number : number + 2]) for firsts in self.received.firsts]

    def _gather(self, expert: int, arrived: Sequence[Tensor]) -> Tensor:
        """Returns the rows of an expert, in the order of ranks and tokens."""
        refs = [refs[pairs] for refs, pairs in zip(self.received.refs, self._pairs(expert), strict=True)]
        return torch.cat([rows[portion] for rows, portion in zip(arrived, refs, strict=True)])

    def _by_source(self, outputs: Mapping[int, Tensor], width: int) -> list[Tensor]:
        """Regroups the outputs of experts by source rank. Each part follows the order of that rank's pairs."""
        parts: list[list[Tensor]] = [[] for _ in range(self.transport.size)]
        for expert, rows in outputs.items():
            sizes = [pairs.stop - pairs.start for pairs in self._pairs(expert)]
            for source, portion in enumerate(rows.split(sizes)):
                parts[source].append(portion)
        return [torch.cat(portion) if portion else torch.zeros(0, width) for portion in parts]

    def _forward_wave(self, wave: int, arrived: list[Tensor]) -> list[Tensor]:
        began = time.perf_counter()
        outputs = {}
        for expert in self.settings.waves.experts(self.transport.rank, wave):
            rows = self._gather(expert, arrived)
            if not len(rows):
                continue
            weights = zip(self.received.weights, self._pairs(expert), strict=True)
            routes = torch.cat([portion[pairs] for portion, pairs in weights])
            if not self.learns:
                outputs[expert] = self.compute(expert, rows, self.experts[expert], routes)
                continue
            with torch.enable_grad():
                rows, routes = rows.requires_grad_(), routes.requires_grad_()
                leaves = [weight.detach().requires_grad_(weight.is_floating_point()) for weight in self.experts[expert]]
                out = self.compute(expert, rows, leaves, routes)
            self._graphs[expert] = rows, routes, leaves, out
            outputs[expert] = out.detach()
        results = self._by_source(outputs, arrived[0].shape[1])
        self.computed.append((wave, began, time.perf_counter()))
        return results

    def backward(self, grad: Tensor) -> Program[tuple[Tensor, Tensor, dict[int, list[Tensor]]]]:
        """Output gradient [n, hidden] -> gradients of h, weights [n, k] float32, and experts that had rows."""
        assert self.learns
        grads: dict[int, Tensor] = {}
        of_weights: dict[int, list[Tensor]] = {}

        def compute(wave: int, arrived: list[Tensor]) -> list[Tensor]:
            outputs = {}
            for expert in self.settings.waves.experts(self.transport.rank, wave):
                if expert in self._graphs:
                    rows, routes, _, out = self._graphs[expert]
                    grads[expert] = self._gather(expert, arrived)
                    portion = torch.autograd.grad(out, (rows, routes), grads[expert], retain_graph=True)
                    outputs[expert] = torch.cat((portion[0].float(), portion[1]), -1)
            return self._by_source(outputs, grad.shape[1] + 1)

        def weights() -> None:
            for expert in list(self._graphs):
                _, _, leaves, out = self._graphs.pop(expert)
                learned = [leaf for leaf in leaves if leaf.requires_grad]
                of_weights[expert] = list(torch.autograd.grad(out, learned, grads.pop(expert)))

        results, of_routes = yield from Exchange(
            self.transport, self.settings, self.routes, self.received, grad.to(self.dtype), self.settings.back, compute,
            extra=1, after=weights,
        ).run()  # fmt: skip
        return sum_by_slot(results, self.routes, self.dtype), of_routes[self.routes.places].squeeze(-1), of_weights


def _shares(x: Tensor, size: int) -> Sequence[Tensor]:
    """Splits rows into `size` shares whose lengths differ by at most one."""
    return x.tensor_split(size)


Run = Callable[[Program[Any]], Any]
"""Drives a program in this process, as `transport.run_alone` does."""


def wave_experts(
    layer: Pass, run: Run, h: Tensor, weights: Tensor, ids: Tensor, experts: Mapping[int, Sequence[Tensor]]
) -> Tensor:
    """`Pass.forward` with gradients for h, weights and the local experts. All ranks must call it, and its backward."""
    numbers = list(experts)
    flat = [weight for number in numbers for weight in experts[number]]
    sizing = numbers, [len(experts[number]) for number in numbers], torch.is_grad_enabled()
    return _WaveExperts.apply(layer, run, ids, sizing, h, weights, *flat)


class _WaveExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layer: Pass, run: Run, ids: Tensor, sizing: Any, h: Tensor, weights: Tensor, *flat: Tensor
    ) -> Tensor:
        numbers, sizes, learns = sizing
        parts = dict(zip(numbers, _split(flat, sizes), strict=True))
        ctx.layer, ctx.run, ctx.sizing = layer, run, sizing
        ctx.dtypes = h.dtype, weights.dtype
        return run(layer.forward(h, weights, ids, parts, learns))  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        numbers, sizes, _ = ctx.sizing
        of_h, of_weights, of_experts = ctx.run(ctx.layer.backward(grads[0]))
        flat: list[Tensor | None] = []
        for number, size in zip(numbers, sizes, strict=True):
            flat += of_experts.get(number, [None] * size)
        return None, None, None, None, of_h.to(ctx.dtypes[0]), of_weights.to(ctx.dtypes[1]), *flat


def _split(flat: Sequence[Tensor], sizes: Sequence[int]) -> list[Sequence[Tensor]]:
    parts, first = [], 0
    for size in sizes:
        parts.append(flat[first : first + size])
        first += size
    return parts
