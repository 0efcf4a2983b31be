"""mHC around a sublayer: the mix of the streams that it reads, and the way of its output back. Report section 2.2."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.config import ModelConfig
from wavefold.model.parameters import empty
from wavefold.ops import Arithmetic


class HyperConnected(nn.Module):
    """A module that owns `{prefix}_fn/base/scale` parameters; the official names keep them flat in their block."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_streams, self.iters = config.hc_mult, config.hc_sinkhorn_iters
        self.hc_eps, self.norm_eps = config.hc_eps, config.rms_norm_eps
        self.hidden_size = config.hidden_size

    def add_mixer(self, prefix: str) -> None:
        """Parameters of the connection around one sublayer."""
        streams = self.num_streams
        rows = 2 * streams + streams * streams
        self.register_parameter(f"{prefix}_fn", empty(rows, streams * self.hidden_size, dtype=torch.float32))
        self.register_parameter(f"{prefix}_base", empty(rows, dtype=torch.float32))
        self.register_parameter(f"{prefix}_scale", empty(3, dtype=torch.float32))

    def add_head(self) -> None:
        """Parameters of the last collapse, `hc_head_*`."""
        self.hc_head_fn = empty(self.num_streams, self.num_streams * self.hidden_size, dtype=torch.float32)
        self.hc_head_base = empty(self.num_streams, dtype=torch.float32)
        self.hc_head_scale = empty(1, dtype=torch.float32)

    def connect(
        self, prefix: str, streams: Tensor, sublayer: Callable[[Tensor], Tensor], arithmetic: Arithmetic
    ) -> Tensor:
        """streams [n, hc, hidden] -> streams after the sublayer, a function of [n, hidden]."""
        fn, base, scale = (getattr(self, f"{prefix}_{name}") for name in ("fn", "base", "scale"))
        numbers = self.iters, self.hc_eps, self.norm_eps
        x, post, comb, streams = ops.hc_read(streams, fn, base, scale, *numbers, arithmetic)
        return ops.hc_expand(sublayer(x), streams, post, comb, arithmetic)

    def connect_late(
        self, prefix: str, streams: Tensor, pre: Tensor, sublayer: Callable[[Tensor], Tensor], arithmetic: Arithmetic
    ) -> tuple[Tensor, Tensor]:
        """`connect` for a sublayer that reads the streams mixed by the `pre` [n, hc] of the sublayer before.

        Returns the streams after the sublayer, and the `pre` for the next sublayer.
        """
        fn, base, scale = (getattr(self, f"{prefix}_{name}") for name in ("fn", "base", "scale"))
        next_pre, post, comb = ops.hc_weights(
            streams, fn, base, scale, self.iters, self.hc_eps, self.norm_eps, arithmetic
        )
        out = sublayer(ops.hc_collapse(streams, pre))
        return ops.hc_expand(out, streams, post, comb, arithmetic), next_pre

    def collapse(self, streams: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Returns the last collapse of the streams, before the final norm: [n, hidden]."""
        head = self.hc_head_fn, self.hc_head_base, self.hc_head_scale
        return ops.hc_head(streams, *head, self.hc_eps, self.norm_eps, arithmetic)
