"""Wavefold: the DeepSeek-V4 architecture, from its official checkpoint, on the machines that people have."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavefold.cache import Pool, PoolFull, Sequence
    from wavefold.checkpoint.load import load
    from wavefold.checkpoint.random import init
    from wavefold.checkpoint.save import save
    from wavefold.config import ModelConfig
    from wavefold.model import Transformer

__version__ = "0.1.0"
__all__ = ["ModelConfig", "Pool", "PoolFull", "Sequence", "Transformer", "init", "load", "save"]

_HOMES = {
    "ModelConfig": "config", "Pool": "cache", "PoolFull": "cache", "Sequence": "cache", "Transformer": "model",
    "init": "checkpoint", "load": "checkpoint", "save": "checkpoint",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `wavefold --help` and the tokenizer do without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
