"""A trained model as an official checkpoint: what quantisation-aware training simulated, now stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from wavefold.checkpoint.load import assign
from wavefold.checkpoint.save import save
from wavefold.config import ModelConfig
from wavefold.model import Transformer


def export(config: ModelConfig, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write the folder `path` of official `tensors`. The model there computes, in the arithmetic of training, the very
    same numbers."""
    packed = Transformer(config)
    assign(packed, tensors)
    save(packed, path)
