"""Lengths of needles against the model's window and this machine's memory, before anything large is read."""

from __future__ import annotations

from pathlib import Path

import torch

from wavefold.cache import BLOCK_TOKENS
from wavefold.config import read_config
from wavefold.engine.room import pass_bytes
from wavefold.locate import model_path
from wavefold.model import Transformer
from wavefold.model.transformer import PASS_TOKENS
from wavefold.ops import Arithmetic
from wavefold.quality.needles import CANDIDATES, Needles
from wavefold.quality.settings import LEAST_LENGTH, NEEDLE_LENGTHS, Settings
from wavefold.system import check_memory
from wavefold.system.sizes import bytes_of


def check_lengths(path: Path, settings: Settings, memory: str | None) -> None:
    """Raises ValueError for a length beyond the model's window, and for one whose cache and pass do not fit in memory.

    `memory`: the budget, None without one. Nothing but the configuration is read.
    """
    if Needles.name not in settings.parts:
        return
    config, _ = read_config(model_path(path))
    longest, window = max(settings.lengths), config.max_position_embeddings
    if longest > window:
        raise ValueError(
            f"lengths = {longest} is not allowed for {path}, whose max_position_embeddings is {window}; expected "
            f"numbers of tokens from {LEAST_LENGTH} to {window}: give shorter ones, or parts without needles"
        )
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    model = Transformer(config, Arithmetic(settings.arithmetic, dtype))
    branches = BLOCK_TOKENS + 3 * CANDIDATES * BLOCK_TOKENS
    needed = model.cache_bytes(longest + branches) + pass_bytes(model, min(longest, PASS_TOKENS))
    subject, advice = f"lengths = {longest}: the cache of a needle", "shorter ones"
    if memory is not None and needed > bytes_of(memory):
        raise ValueError(f"{subject} takes {needed / 1e9:,.2f} GB of memory = {memory}; expected {advice}, or more")
    check_memory(needed, subject, advice)


def default_lengths(path: Path) -> tuple[int, ...]:
    """Returns the usual lengths that the model's window has room for, or its window; at least `LEAST_LENGTH`."""
    window = read_config(model_path(path))[0].max_position_embeddings
    return tuple(length for length in NEEDLE_LENGTHS if length <= window) or (max(window, LEAST_LENGTH),)
