"""Wavefold: the DeepSeek-V4 architecture, from its official checkpoint, on the machines that people have.

with LLM() as llm:
    llm.generate(["def main():"], Sampling(max_tokens=32))       the model that ships, or LLM(folder)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavefold.cache import Pool, PoolFull, Sequence
    from wavefold.chat import Tokenizer
    from wavefold.checkpoint.load import load
    from wavefold.checkpoint.random import random_checkpoint
    from wavefold.checkpoint.save import save
    from wavefold.config import ModelConfig
    from wavefold.engine import AsyncTextStream, Completion, Sampling, TextStream, TokenLogprob, Usage
    from wavefold.llm import LLM
    from wavefold.model import Transformer
    from wavefold.ops import Arithmetic
    from wavefold.train.session import train

__version__ = "0.1.0"
__all__ = [
    "LLM", "Arithmetic", "AsyncTextStream", "Completion", "ModelConfig", "Pool", "PoolFull", "Sampling", "Sequence",
    "TextStream", "TokenLogprob", "Tokenizer", "Transformer", "Usage", "load", "random_checkpoint", "save", "train",
]  # fmt: skip

_HOMES = {
    "LLM": "llm", "Arithmetic": "ops", "AsyncTextStream": "engine", "Completion": "engine", "ModelConfig": "config",
    "Pool": "cache", "PoolFull": "cache", "Sampling": "engine", "Sequence": "cache", "TextStream": "engine",
    "TokenLogprob": "engine", "Tokenizer": "chat", "Transformer": "model", "Usage": "engine", "load": "checkpoint",
    "random_checkpoint": "checkpoint", "save": "checkpoint",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `wavefold --help` and the tokenizer do without torch."""
    if name == "train":  # the package, which can be called
        return import_module(f"{__name__}.train")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """The public names, whether they have been imported or not."""
    return sorted([*__all__, "__version__"])
