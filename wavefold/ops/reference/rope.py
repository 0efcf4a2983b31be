"""Partial rotary positions: the last `rope` dims of a vector are rotated by an angle that grows with its position.

Interleaved: dims (2i, 2i + 1) form one complex number. Angles are float32 position times float32 frequency, as in the
released code, for any activation dtype. Report section 2.3; YaRN (arXiv:2309.00071) without its attention factor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavefold.config import ModelConfig
from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.flops import counted

Table = tuple[Tensor, Tensor]
"""cos and sin, [n, rope / 2] float32."""


def rope_frequencies(config: ModelConfig, compressed: bool, device: torch.device | str | None = None) -> Tensor:
    """Radians per token for each pair, float32 [rope / 2].

    Layers that see only the window have the plain table. Layers with entries (`compressed`) have another base, and YaRN
    if the configuration has it.
    """
    dim = config.qk_rope_head_dim
    base = config.compress_rope_theta if compressed else config.rope_theta
    frequencies = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    yarn = config.rope_scaling
    if compressed and yarn is not None:

        def dim_of(rotations: float) -> float:
            """Returns the dim that makes `rotations` turns over the original context."""
            return (
                dim * math.log(yarn.original_max_position_embeddings / (rotations * 2 * math.pi)) / (2 * math.log(base))
            )

        low = max(math.floor(dim_of(yarn.beta_fast)), 0)
        high = min(math.ceil(dim_of(yarn.beta_slow)), dim - 1)
        span = max(high - low, 0.001)
        keep = 1 - ((torch.arange(dim // 2, dtype=torch.float32) - low) / span).clamp(0, 1)
        frequencies = frequencies / yarn.factor * (1 - keep) + frequencies * keep
    return frequencies.to(device)


def rope_table(positions: Tensor, frequencies: Tensor) -> Table:
    """positions [n] int64 -> cos, sin [n, rope / 2] float32."""
    angles = positions.to(torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


@counted("rope", lambda x, table, *_, **__: x.numel() // x.shape[-1] * 6 * table[0].shape[-1])
def rotate(x: Tensor, table: Table, arithmetic: Arithmetic, inverse: bool = False) -> Tensor:
    """x [n, ..., dim] with its last rope dims rotated to the table's positions (rotated back if `inverse`)."""
    cos, sin = (t.to(arithmetic.accumulate).view(len(t), *(1,) * (x.dim() - 2), t.shape[-1]) for t in table)
    sin = -sin if inverse else sin
    split = x.shape[-1] - 2 * cos.shape[-1]
    even, odd = x[..., split:].to(arithmetic.accumulate).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
    return torch.cat((x[..., :split], turned.to(x.dtype)), -1)
