"""The architecture, one idea a file. Begin with `transformer`, then `block`, `attention`, `compressor`, `indexer`."""

from wavefold.model.step import Step
from wavefold.model.transformer import Transformer

__all__ = ["Step", "Transformer"]
