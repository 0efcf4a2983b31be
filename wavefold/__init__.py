"""Wavefold: the DeepSeek-V4 architecture, from its official checkpoint, on the machines that people have."""

from wavefold.cache import Pool, PoolFull, Sequence
from wavefold.checkpoint import init, load, save
from wavefold.config import ModelConfig
from wavefold.model import Transformer

__version__ = "0.1.0"
__all__ = ["ModelConfig", "Pool", "PoolFull", "Sequence", "Transformer", "init", "load", "save"]
