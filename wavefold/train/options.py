"""The settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from wavefold.config import ModelConfig
from wavefold.data.long_chats import LongChats
from wavefold.train.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """The settings of a run. `recipe` has the steps of `extend` added."""

    out: Path
    data: str
    config: ModelConfig
    recipe: Recipe
    dtype: torch.dtype
    init: Path | None
    transformers: bool
    extend: int
    force_data: bool
    long_chats: LongChats
    last_data: str | None
