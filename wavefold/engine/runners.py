"""The runner that suits a model, its budget and a user's settings: its pool, its passes, who guesses, what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wavefold.cache import BLOCK_TOKENS, CacheLayout, Space
from wavefold.cache.disk import DiskCache
from wavefold.engine.budget import Budget
from wavefold.engine.drafting import Drafter, Drafts, proposers_of
from wavefold.engine.prefix_space import space_of
from wavefold.engine.prefixes import SNAPSHOT_EVERY, Keeping, nowhere
from wavefold.engine.ranks import Leader
from wavefold.engine.room import kept_states, pool_blocks
from wavefold.engine.runner import Runner
from wavefold.model import Transformer
from wavefold.model.transformer import PASS_TOKENS
from wavefold.system.sizes import bytes_of

DISK_CACHE = "20G"


@dataclass(frozen=True)
class PrefixSettings:
    """What a user wants of the prefix cache. `folder`: where it outlives the process, `disk_cache` bytes at most."""

    is_on: bool = True
    snapshot_every: int = SNAPSHOT_EVERY
    folder: Path | None = None
    disk_cache: int = 0

    @property
    def in_budget(self) -> tuple[int | None, bool]:
        """`snapshot_every`, or None where the cache is off; and True for one on disk."""
        return (self.snapshot_every if self.is_on else None), self.folder is not None


def prefix_settings(
    is_on: bool, snapshot_every: int, cache_dir: str | Path | None, disk_cache: int | str | None, alone: bool,
    device: str,
) -> PrefixSettings:  # fmt: skip
    """Returns what applies: over ranks (not `alone`) and on other devices than a CPU there is no prefix cache.

    Raises ValueError for a distance that is no multiple of 128, for a folder where nothing is kept, for a file in its
    place, for a size without a folder, and for a text that is no size. `disk_cache` None: DISK_CACHE.
    """
    if snapshot_every % BLOCK_TOKENS:
        raise ValueError(
            f"snapshot_every = {snapshot_every} is not allowed; expected a multiple of {BLOCK_TOKENS}, where blocks "
            "are complete"
        )
    possible = alone and device.partition(":")[0] == "cpu"
    if cache_dir is not None and not (possible and is_on):
        reason = "with prefix_cache = False" if possible else "over several processes or on another device than a CPU"
        raise ValueError(f"cache_dir = {cache_dir} is not allowed {reason}; leave it out")
    num_bytes = bytes_of(DISK_CACHE if disk_cache is None else disk_cache, "disk_cache")
    if disk_cache is not None and cache_dir is None:
        raise ValueError(
            f"disk_cache = {disk_cache} is not allowed without cache_dir; give the folder, or leave it out"
        )
    folder = None if cache_dir is None else Path(cache_dir)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ValueError(f"cache_dir = {cache_dir} is a file; expected a folder, which need not be there yet")
    return PrefixSettings(is_on and possible, snapshot_every, folder, num_bytes)


def usable_drafts(model: Transformer, drafts: Drafts | None, num_ranks: int) -> Drafts | None:
    """Returns who guesses; over ranks look-up. Raises ValueError for MTP over ranks, and for what the model lacks."""
    if num_ranks > 1:
        drafts = drafts or "lookup"
        if drafts != "lookup":
            raise ValueError(f"drafts = {drafts!r} is not allowed over {num_ranks} processes; expected 'lookup'")
    proposers_of(model, drafts)
    return drafts


def open_disk(
    model: Transformer, checkpoint: Path, settings: PrefixSettings
) -> tuple[DiskCache | None, Callable[[CacheLayout], tuple[bytes, Space | None]]]:  # fmt: skip
    """Returns the cache on disk, if one is wanted, and what makes a space on it for a layout."""
    if settings.folder is None:
        return None, nowhere
    disk = DiskCache(settings.folder, settings.disk_cache)
    return disk, space_of(model, checkpoint, disk)


def new_runner(
    model: Transformer, budget: Budget | None, cache_tokens: int | None, width: int, draft_depth: int,
    drafts: Drafts | None, leader: Leader | None, settings: PrefixSettings,
    space: Callable[[CacheLayout], tuple[bytes, Space | None]] = nowhere,
) -> Runner:  # fmt: skip
    """Returns a runner. Its pool has `cache_tokens`, or those of the budget, or as many as suit."""
    num_blocks = pool_blocks(model, 0, asked_tokens(budget, cache_tokens))
    drafter = Drafter(draft_depth, proposers_of(model, drafts)) if draft_depth else None
    rows = budget.step_tokens if budget else max(PASS_TOKENS, 2 * width * (1 + draft_depth))
    running = min(width if budget is None else budget.max_running, (rows - 1) // (1 + draft_depth))
    keeping = None
    if settings.is_on:
        every = settings.snapshot_every
        num_kept = kept_states(model, num_blocks * BLOCK_TOKENS, every) if budget is None else budget.num_kept
        keeping = Keeping(num_kept, every, space) if num_kept else None
    return Runner(
        model, num_blocks, running, rows, draft_depth=draft_depth, drafter=drafter, leader=leader, keeping=keeping
    )  # fmt: skip


def asked_tokens(budget: Budget | None, cache_tokens: int | None) -> int | None:
    """Returns the tokens of a pool that somebody asked for; None: as many as suit."""
    return cache_tokens if budget is None or cache_tokens else budget.pool_tokens
