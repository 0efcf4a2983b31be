"""What lies where under a budget of memory, decided before anything is loaded.

    budget = Python and libraries now + dense weights + cache + activations of a pass + slots for routed experts

The cache: a pool, the states of answers that run, and those that a prefix cache keeps.

All of it is resident memory of this process. What is left after the first four goes to slots; with room for all
experts, files are mapped and nothing is streamed.

Over ranks each process has a budget of its own, for its share of the experts. Numbers of slots may differ; ranks run
the same passes over the same cache, so both are the least that any rank has room for.

Several models of one process have a share each, which Python and libraries are no part of; who shares them out
watches the process.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from wavefold.cache import BLOCK_TOKENS
from wavefold.checkpoint.files import read_refs, weight_files
from wavefold.config import read_config
from wavefold.engine.room import DEFAULT_POOL_TOKENS, kept_states, pass_bytes
from wavefold.engine.runner import MAX_RUNNING
from wavefold.engine.scheduler import blocks_of
from wavefold.experts import routed_expert
from wavefold.experts.places import slot_bytes
from wavefold.experts.pressure import Pressure, watch
from wavefold.experts.streamed import LEAST_SLOTS, StreamedExperts
from wavefold.model import Transformer
from wavefold.model.transformer import PASS_TOKENS
from wavefold.ops import Arithmetic
from wavefold.system import memory_bytes, rss_bytes
from wavefold.system.sizes import bytes_of, gib
from wavefold.waves.agreement import agreed, num_ranks, num_ranks_here, of_all, rank_here
from wavefold.waves.schedule import Waves

DEFAULT_SHARE = 0.8
"""Of the least limit on memory, for a model that does not fit whole."""
OVERHEAD = 96 << 20
"""What libraries, threads and the allocator take while a model runs, beyond what the process had before."""
PASSES = (4096, 2048, 1024, 512, 256, 128, 64)
"""Rows of a pass. A prompt's experts are read once a pass, so that longer passes read less."""
LEAST_POOL_TOKENS = 1024
DISK_BYTES = 192 << 20
"""What a prefix cache on disk holds beside states: records that wait, and buffers (cache/disk_write.py)."""
SPARE_STATES = 2
"""Of a pool with a prefix cache (`Pool.prepare`)."""


class Share(NamedTuple):
    """Bytes for one of several models of a process: its weights, cache and passes."""

    num_bytes: int


class Needs(NamedTuple):
    """Bytes of a share with which all of a model is in memory, and of the least with which it runs."""

    whole: int
    least: int


@dataclass(frozen=True)
class Budget:
    """Bytes of each part; `num_slots` is None where all experts fit and files are mapped."""

    total: int
    base: int
    dense: int
    pool: int
    passes: int
    slot: int
    num_slots: int | None
    num_experts: int
    experts: int
    """Bytes of all routed experts; over ranks, of this rank's."""
    pool_tokens: int
    step_tokens: int
    max_running: int
    num_kept: int = 0
    """States of the prefix cache."""
    is_share: bool = False
    """Of one of several models: `base` is the buffers of a prefix cache on disk, without Python and libraries."""

    @property
    def slots(self) -> int:
        """Bytes of the routed experts that are in memory at a time."""
        return self.experts if self.num_slots is None else self.num_slots * self.slot

    @property
    def used(self) -> int:
        """Bytes of all parts together: `total`, less what none of them has a use for."""
        return self.base + self.dense + self.pool + self.passes + self.slots

    def lines(self) -> list[tuple[str, int, str]]:
        """Returns a name, bytes and a remark for each part, for a table."""
        number = self.num_experts if self.num_slots is None else self.num_slots
        return [
            ("Python and libraries", self.base, ""),
            ("dense weights", self.dense, "resident"),
            (
                "cache",
                self.pool,
                f"{self.pool_tokens:,} tokens of at most {self.max_running} answers at a time"
                + (f", {self.num_kept} states of prefixes" if self.num_kept else ""),
            ),
            ("activations", self.passes, f"passes of {self.step_tokens} tokens"),
            (
                "routed experts",
                self.slots,
                f"{number:,} of {self.num_experts:,}, {100 * number / self.num_experts:.0f} %",
            ),
        ]


def checked_budget(
    folder: Path, arithmetic: Arithmetic, memory: int | str | Share | None, cache_tokens: int | None, width: int,
    device: str | torch.device, over_ranks: bool, snapshot_every: int | None = None, on_disk: bool = False,
) -> Budget | None:  # fmt: skip
    """`budget_of` for settings as `LLM` takes them; None on other devices, and `over_ranks` unless one is asked for.

    Raises ValueError for a budget on another device and for a text that is no size; over ranks, Disagreement where only
    some ranks were given one.
    """
    if str(device).partition(":")[0] != "cpu":  # other names are judged where the model is opened
        if memory is None:
            return None
        raise ValueError(f"memory = {memory} is not allowed with device = {device}; expected the CPU")
    if isinstance(memory, Share):
        if over_ranks:
            raise ValueError("a share of memory is for one process; expected a size over ranks")
        return _share(folder, arithmetic, memory, cache_tokens, width, snapshot_every, on_disk)
    num_bytes = None if memory is None else bytes_of(memory)
    if not over_ranks:
        return budget_of(folder, arithmetic, num_bytes, cache_tokens, width, None, snapshot_every, on_disk)

    def of_this_rank() -> tuple[Budget | None, dict[str, object]]:
        if num_bytes is None:
            return None, {"memory": "no budget", "cache_tokens": cache_tokens}
        share = Waves(read_config(folder)[0].n_routed_experts, num_ranks()).experts_of(rank_here())
        budget = budget_of(folder, arithmetic, num_bytes, cache_tokens, width, share)
        return budget, {"memory": "a budget", "cache_tokens": cache_tokens}

    budget = agreed(of_this_rank)
    return None if budget is None else _least_of_ranks(budget)


def _least_of_ranks(budget: Budget) -> Budget:
    """Returns this rank's budget with the pool, passes and answers at a time that all ranks have room for."""
    names = "pool_tokens", "step_tokens", "max_running"
    ranks = of_all({name: getattr(budget, name) for name in names})
    return replace(budget, **{name: min(rank[name] for rank in ranks) for name in names})


def budget_of(
    folder: Path, arithmetic: Arithmetic, memory: int | None, cache_tokens: int | None = None,
    width: int = MAX_RUNNING, share: Container[int] | None = None, snapshot_every: int | None = None,
    on_disk: bool = False,
) -> Budget | None:  # fmt: skip
    """Returns how `memory` bytes are used for the checkpoint in `folder`; None: those of `DEFAULT_SHARE`, if need be.

    `share`: this rank's routed experts (None: all). `snapshot_every`: of a prefix cache (None: there is none), which
    is on disk too or not. None is
    returned where no budget was asked for and the checkpoint fits as it is. Raises ValueError for a budget above what
    this process may have, which shares the machine with the others that torchrun started on it, and for one that is too
    small, with the least that would do.
    """
    most = memory_bytes() // num_ranks_here()
    if memory is not None and memory > most:
        others = f", one of {num_ranks_here()} on this machine," if num_ranks_here() > 1 else ""
        raise ValueError(f"memory = {gib(memory)} is not allowed; this process{others} may have {gib(most)}")
    total = int(DEFAULT_SHARE * most) if memory is None else memory
    now = rss_bytes()
    if memory is None and now + sum(path.stat().st_size for path in weight_files(folder)) <= total:
        return None
    config, _ = read_config(folder)
    dense, sizes = _weights(folder, share)
    return _shared_out(
        folder, Transformer(config, arithmetic), total, now + OVERHEAD + on_disk * DISK_BYTES, dense, sizes,
        cache_tokens, width, snapshot_every, on_disk,
    )  # fmt: skip


def _share(
    folder: Path, arithmetic: Arithmetic, share: Share, cache_tokens: int | None, width: int,
    snapshot_every: int | None, on_disk: bool,
) -> Budget:  # fmt: skip
    model = Transformer(read_config(folder)[0], arithmetic)
    return _shared_out(
        folder, model, share.num_bytes, on_disk * DISK_BYTES, *_weights(folder, None), cache_tokens, width,
        snapshot_every, on_disk, is_share=True,
    )  # fmt: skip


def needs_of(
    folder: Path, arithmetic: Arithmetic, cache_tokens: int, width: int = MAX_RUNNING,
    snapshot_every: int | None = None, on_disk: bool = False,
) -> Needs:  # fmt: skip
    """Returns what a share must have for the checkpoint in `folder`, with a cache of `cache_tokens`.

    The whole has room for passes of full width, `width` answers at a time, a state for each `snapshot_every` tokens.
    """
    model = Transformer(read_config(folder)[0], arithmetic)
    dense, sizes = _weights(folder, None)
    base, step = on_disk * DISK_BYTES, 1 << 20
    least = base + dense + _least(model, sizes, cache_tokens)[0]
    total = max(least, base + dense + sum(sizes) + model.cache_bytes(cache_tokens) + pass_bytes(model, PASS_TOKENS))
    while True:
        budget = _shared_out(
            folder, model, total, base, dense, sizes, cache_tokens, width, snapshot_every, on_disk, is_share=True
        )
        is_wide = budget.step_tokens == PASS_TOKENS and budget.max_running >= min(width, PASS_TOKENS // 2)
        keeps = snapshot_every is None or budget.num_kept >= cache_tokens // snapshot_every
        if budget.num_slots is None and is_wide and keeps:
            return Needs(total, least)
        total, step = total + step, 2 * step


def watch_budget(model: Transformer, budget: Budget | None) -> None:
    """Lets streamed experts give memory back while the process comes near its budget, or the machine near a limit."""
    store = model.experts.store
    if budget is not None and not budget.is_share and isinstance(store, StreamedExperts):
        watch(store, Pressure(budget.total))


def _weights(folder: Path, share: Container[int] | None) -> tuple[int, list[int]]:
    """Returns the bytes of dense weights, and of each routed expert of `share` (None: all)."""
    dense, sizes = 0, dict[str, int]()
    for name, ref in read_refs(folder).refs.items():
        expert = routed_expert(name)
        if expert is None:
            dense += ref.nbytes
        elif share is None or expert in share:
            place = name[: name.index(".experts.")] + f".{expert}"
            sizes[place] = sizes.get(place, 0) + ref.nbytes
    return dense, list(sizes.values())


def _shared_out(
    folder: Path, model: Transformer, total: int, base: int, dense: int, sizes: list[int], cache_tokens: int | None,
    width: int, snapshot_every: int | None, on_disk: bool, is_share: bool = False,
) -> Budget:  # fmt: skip
    slot = slot_bytes(max(sizes, default=0))
    rest = total - base - dense
    least, least_tokens, least_slots = _least(model, sizes, cache_tokens)
    if rest < least:
        raise ValueError(
            f"memory = {gib(total)} is not enough for {folder}; expected {gib(base + dense + least)} at least: "
            f"{gib(base)} for Python and libraries, {gib(dense)} of dense weights, and {gib(least)} for a cache of "
            f"{least_tokens:,} tokens, a pass of {PASSES[-1]} and {least_slots} routed experts"
        )
    step = next((rows for rows in PASSES if pass_bytes(model, rows) <= rest / 4), PASSES[-1])
    share, of_kept = (16 if width <= MAX_RUNNING else 2), 32  # who asks for more has many prompts, and little else
    if is_share:  # it was cut for what is wanted
        share, of_kept = 2, 4
    running = min(width, 1 + int(rest / share / model.cache_bytes(0)), step // 2)
    tokens = least_tokens
    while cache_tokens is None and tokens < DEFAULT_POOL_TOKENS and model.cache_bytes(2 * tokens) <= rest / 16:
        tokens *= 2
    kept = kept_states(model, tokens, snapshot_every, int(rest / of_kept)) if snapshot_every else 0
    states = running - 1 + kept + (SPARE_STATES if kept else 0) + on_disk * running  # a running answer's last boundary
    pool, passes = model.cache_bytes(tokens) + states * model.cache_bytes(0), pass_bytes(model, step)
    if pool + passes + least_slots * slot > rest:
        step, running, tokens, kept = PASSES[-1], 1, least_tokens, 0
        pool, passes = model.cache_bytes(tokens), pass_bytes(model, step)
    fits = sum(sizes) <= rest - pool - passes
    num_slots = None if fits else min(len(sizes), (rest - pool - passes) // slot)
    if fits and pass_bytes(model, PASS_TOKENS) <= rest - pool - sum(sizes):
        step, passes = PASS_TOKENS, pass_bytes(model, PASS_TOKENS)
    return Budget(
        total, base, dense, pool, passes, slot, num_slots, len(sizes), sum(sizes), tokens, step, running, kept,
        is_share,
    )  # fmt: skip


def _least(model: Transformer, sizes: list[int], cache_tokens: int | None) -> tuple[int, int, int]:
    """Returns the least bytes beside dense weights, and the tokens of the cache and the slots that they hold."""
    slots = max(LEAST_SLOTS, min(model.config.num_experts_per_tok, len(sizes)))
    tokens = BLOCK_TOKENS * blocks_of(cache_tokens or LEAST_POOL_TOKENS)
    slots_bytes = slots * slot_bytes(max(sizes, default=0))
    return model.cache_bytes(tokens) + pass_bytes(model, PASSES[-1]) + slots_bytes, tokens, slots
