"""The part of a layer on one rank as one launch: buffers, which peers reach by pointer, and arguments of the kernel.

Ranks may be processes with symmetric memory, or several in one process (tests; one GPU). Each has a `Rank`, and all
know all pointers. Every assumption of the kernel is checked before a launch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold import quant
from wavefold.ops.tilelang.shape import Shape
from wavefold.ops.tilelang.tasks import BLOCK
from wavefold.ops.tilelang.weights import check_tensor, stack
from wavefold.waves.fused.tables import Flags, Pairs, Tables, tables
from wavefold.waves.schedule import Waves

Stored = tuple[Tensor, Tensor]
"""FP4 codes and scales of one weight."""


class Rank:
    """One of several ranks, for layers of one shape. Each launch is `prepare`, then the kernel.

    `max_tokens`: largest number of tokens of a rank. Results and tiles have room for `max_rows` rows, including the
    padding of the last tile of each expert.
    """

    def __init__(
        self, rank: int, shape: Shape, waves: Waves, max_tokens: int, max_rows: int | None = None,
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        if not 0 <= rank < waves.num_ranks:
            raise ValueError(f"rank {rank} is not allowed; expected 0 to {waves.num_ranks - 1}")
        self.rank, self.shape, self.waves, self.max_tokens = rank, shape, waves, max_tokens
        num_local = len(waves.experts_of(rank))
        most = waves.num_ranks * max_tokens * min(shape.slots, num_local) + num_local * (shape.rows - 1)
        self.max_rows = -(-(most if max_rows is None else max_rows) // shape.rows) * shape.rows
        self.flags_layout = Flags(waves.num_ranks, waves.num_waves)
        self.epoch = 0

        def room(*size: int, dtype: torch.dtype = torch.uint8) -> Tensor:
            return torch.zeros(*size, dtype=dtype, device=device)

        hidden, inner = shape.hidden, shape.inner
        self.x, self.x_scale = room(max_tokens, hidden), room(max_tokens, hidden // BLOCK)
        self.y = room(self.max_rows, hidden, dtype=torch.bfloat16)
        self.flags = room(self.flags_layout.activated(self.max_rows // shape.rows), dtype=torch.int32)
        self.act, self.act_scale = room(self.max_rows, inner), room(self.max_rows, inner // BLOCK)
        self.back = room(max_tokens * shape.slots, hidden, dtype=torch.bfloat16)
        self.device = self.x.device

    def pointers(self) -> list[int]:
        """Returns the addresses of x, its scales, results and flags, which peers need."""
        return [tensor.data_ptr() for tensor in (self.x, self.x_scale, self.y, self.flags)]

    def weights(self, experts: Sequence[tuple[Stored, Stored, Stored]]) -> dict[str, Tensor]:
        """Returns w1, w2, w3 of the local experts as the kernel reads them. Raises ValueError if it cannot."""
        if len(experts) != len(self.waves.experts_of(self.rank)):
            raise ValueError(
                f"{len(experts)} experts are not allowed; rank {self.rank} has {len(self.waves.experts_of(self.rank))}"
            )
        hidden, inner = self.shape.hidden, self.shape.inner
        stacks = {}
        for name, parts in zip(("w1", "w2", "w3"), zip(*experts, strict=True), strict=True):
            out, into = (hidden, inner) if name == "w2" else (inner, hidden)
            stacks[name], stacks[f"{name}_scale"] = stack(parts)
            check_tensor(name, stacks[name], torch.uint8, (None, out, into // 2))
        return {name: tensor.to(self.device) for name, tensor in stacks.items()}

    def prepare(
        self, x: Tensor, ids: Sequence[Tensor], routes: Sequence[Tensor], weights: dict[str, Tensor],
        pointers: Sequence[Sequence[int]], picoseconds: int = 0,
    ) -> dict[str, Tensor | int]:  # fmt: skip
        """Lays out the tokens x [n, hidden] bfloat16 for peers. Returns the arguments of the kernel by name.

        ids, routes: [n, slots] of each rank. pointers: `pointers()` of each rank. Every rank calls it once for each
        launch, in the same order of launches. Raises ValueError before anything is written.
        """
        shape, waves = self.shape, self.waves
        check_tensor("x", x, torch.bfloat16, (len(ids[self.rank]), shape.hidden))
        for number, (entry, values) in enumerate(zip(ids, routes, strict=True)):
            if entry.shape != values.shape or entry.shape[1:] != (shape.slots,) or len(entry) > self.max_tokens:
                raise ValueError(
                    f"rank {number}: ids {tuple(entry.shape)} and routes {tuple(values.shape)}; expected up to "
                    f"{self.max_tokens} x {shape.slots} of both"
                )
        if len(pointers) != waves.num_ranks or any(len(entry) != 4 or any(p % 16 for p in entry) for entry in pointers):
            raise ValueError("pointers: expected four of each rank, multiples of 16 bytes")
        table = tables(Pairs(waves, ids, shape.rows), routes, self.rank, (shape.hidden, shape.inner), self.epoch + 1)
        if len(table.place) > self.max_rows:
            raise ValueError(f"{len(table.place)} rows are not allowed; rank {self.rank} has room for {self.max_rows}")
        self.epoch += 1
        return self._stacks(x, table, weights, pointers, picoseconds)

    def reset(self) -> None:
        """Zeroes the local flags, as a launch expects them. Flags that peers write stay."""
        self.flags[: self.flags_layout.shared].zero_()
        self.flags[self.flags_layout.activated() :].zero_()

    def _stacks(
        self, x: Tensor, table: Tables, weights: dict[str, Tensor], pointers: Sequence[Sequence[int]], picoseconds: int
    ) -> dict[str, Tensor | int]:
        codes, scales = quant.act_quant(x, BLOCK)
        self.x[: len(x)], self.x_scale[: len(x)] = codes.view(torch.uint8), scales.view(torch.uint8)
        self.reset()
        rows, staged, hidden = len(table.place), len(table.tokens), self.shape.hidden
        stage = torch.empty(max(1, staged), hidden, dtype=torch.uint8, device=self.device)
        move = {"need": table.need, "links": table.links, "computes": table.computes, "tokens": table.tokens,
                "place": table.place, "route": table.route, "pairs": table.pairs}  # fmt: skip
        return {
            **weights, **{name: tensor.to(self.device) for name, tensor in move.items()},
            "pointers": torch.tensor(pointers, dtype=torch.int64, device=self.device).T.contiguous(),
            "flags": self.flags[: len(table.need)], "stage": stage,
            "stage_scale": stage.new_empty(len(stage), hidden // BLOCK), "act": self.act[:rows],
            "act_scale": self.act_scale[:rows], "y": self.y[:rows], "back": self.back[: len(x) * self.shape.slots],
            "out": torch.empty(len(x), hidden, dtype=torch.bfloat16, device=self.device), "picoseconds": picoseconds,
            "n": len(x), "u": staged, "p": rows, "e": len(weights["w1"]), "m": len(table.pairs), "nl": len(table.links),
            "nc": len(table.computes), "nf": len(table.need),
        }  # fmt: skip
