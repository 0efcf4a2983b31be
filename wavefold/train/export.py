"""A trained model as an official checkpoint: what quantisation-aware training simulated, now stored."""

from __future__ import annotations

from pathlib import Path

from wavefold.checkpoint.load import assign
from wavefold.checkpoint.save import save
from wavefold.model import Transformer
from wavefold.train.fake_quant import Masters


def export(masters: Masters, path: Path) -> None:
    """Write the folder `path`. The model there computes, in the arithmetic of training, the very same numbers."""
    packed = Transformer(masters.model.config, masters.model.arithmetic)
    assign(packed, masters.export())
    save(packed, path)
