"""The architecture, one idea a file. Begin with `transformer`, then `block`, `attention`, `compressor`, `indexer`."""

from wavefold.model.expert_store import ExpertStore, ExpertView, ExpertWeights, ResidentExperts
from wavefold.model.transformer import Transformer

__all__ = ["ExpertStore", "ExpertView", "ExpertWeights", "ResidentExperts", "Transformer"]
