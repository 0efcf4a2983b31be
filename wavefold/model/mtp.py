"""The multi-token-prediction module: one more block that predicts the token after the next. Report section 2.1.

streams of token i (before the final collapse)  --hnorm, h_proj--+
embedding of token i + 1                        --enorm, e_proj--+--> Block --> logits of token i + 2
"""

from __future__ import annotations

from torch import Tensor

from wavefold.config import LayerSpec, ModelConfig
from wavefold.experts import ExpertCompute
from wavefold.model.batch import Batch
from wavefold.model.block import Block
from wavefold.model.parameters import Linear, Norm
from wavefold.ops import Arithmetic


class MTP(Block):
    """A block with input projections, a final collapse and a norm. It shares embedding and head with the main model."""

    def __init__(self, config: ModelConfig, spec: LayerSpec):
        super().__init__(config, spec)
        self.e_proj = Linear(config.hidden_size, config.hidden_size, "fp8")
        self.h_proj = Linear(config.hidden_size, config.hidden_size, "fp8")
        self.enorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.add_head()

    def combine(self, streams: Tensor, embedded: Tensor, arithmetic: Arithmetic) -> Tensor:
        """streams [n, hc, hidden], the next tokens' embeddings [n, hidden] -> the block's input streams."""
        e = self.e_proj(self.enorm(embedded, arithmetic), arithmetic)
        return e[:, None] + self.h_proj(self.hnorm(streams, arithmetic), arithmetic)

    def run(
        self, streams: Tensor, embedded: Tensor, batch: Batch, experts: ExpertCompute, arithmetic: Arithmetic
    ) -> Tensor:
        """Returns the module's own streams [n, hc, hidden], the input of a guess one token further."""
        return self(self.combine(streams, embedded, arithmetic), batch, experts, arithmetic)

    def final(self, streams: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Returns the final hidden states [n, hidden] of the module's streams. The shared head makes them logits."""
        return self.norm(self.collapse(streams, arithmetic), arithmetic)

    def predict(
        self, streams: Tensor, embedded: Tensor, batch: Batch, experts: ExpertCompute, arithmetic: Arithmetic
    ) -> Tensor:
        """Returns the final hidden states [n, hidden] for rows of the main model's streams."""
        return self.final(self.run(streams, embedded, batch, experts, arithmetic), arithmetic)
