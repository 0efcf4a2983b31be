"""A transformer block: attention, then experts, each inside its hyper-connection."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wavefold.config import LayerSpec, ModelConfig
from wavefold.experts import ExpertCompute
from wavefold.model.attention import Attention
from wavefold.model.batch import Batch
from wavefold.model.hyper_connection import HyperConnected
from wavefold.model.moe import MoE
from wavefold.model.parameters import Norm
from wavefold.ops import Arithmetic

Sublayer = Callable[[Tensor], Tensor]


class Block(HyperConnected):
    def __init__(self, config: ModelConfig, spec: LayerSpec):
        super().__init__(config)
        self.late_pre = spec.late_pre
        self.attn = Attention(config, spec)
        self.ffn = MoE(config, spec)
        self.attn_norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.add_mixer("hc_attn")
        self.add_mixer("hc_ffn")

    def forward(self, streams: Tensor, batch: Batch, experts: ExpertCompute, arithmetic: Arithmetic) -> Tensor:
        """streams [n, hc, hidden] -> [n, hc, hidden]. Raises ValueError for a layer with late_pre."""
        if self.late_pre:
            raise ValueError("a layer of late_pre does not run alone; expected Block.forward_late, from layer to layer")
        attend, think = self.sublayers(batch, experts, arithmetic)
        streams = self.connect("hc_attn", streams, attend, arithmetic)
        return self.connect("hc_ffn", streams, think, arithmetic)

    def forward_late(
        self, streams: Tensor, pre: Tensor, batch: Batch, experts: ExpertCompute, arithmetic: Arithmetic
    ) -> tuple[Tensor, Tensor]:
        """Returns streams and `pre` after the block. A sublayer mixes the streams by the `pre` [n, hc] before it."""
        attend, think = self.sublayers(batch, experts, arithmetic)
        streams, pre = self.connect_late("hc_attn", streams, pre, attend, arithmetic)
        return self.connect_late("hc_ffn", streams, pre, think, arithmetic)

    def sublayers(self, batch: Batch, experts: ExpertCompute, arithmetic: Arithmetic) -> tuple[Sublayer, Sublayer]:
        """Returns attention and experts, each behind its norm."""

        def attend(x: Tensor) -> Tensor:
            return self.attn(self.attn_norm(x, arithmetic), batch, arithmetic)

        def think(x: Tensor) -> Tensor:
            return self.ffn(self.ffn_norm(x, arithmetic), batch, experts, arithmetic)

        return attend, think
