"""The lightning indexer: each query scores all visible entries and keeps the best k. Report section 2.3.1.

I[t, i] = sum_h w[t, h] * relu(q[t, h] . k[i])
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold import quant
from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.flops import count, counted, values
from wavefold.ops.reference.straight_through import straight_through

INDEX_BLOCK = 32


def index_rotate(x: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Transforms index queries or keys [..., dim] before scoring. Released: Hadamard, FP4 in blocks of 32.

    The Hadamard matrix is orthogonal: without quantization it changes no score, and exact arithmetic leaves it out.
    The gradient passes through the quantization unchanged.
    """
    if not arithmetic.rounds_index:
        return x
    count("hadamard", x.numel() * x.shape[-1].bit_length())  # log2(n) butterflies and a product
    count("quantize", 2 * x.numel())
    return straight_through(lambda y: quant.fp4_sim(y, INDEX_BLOCK), quant.hadamard(x))


@counted("index heads", lambda x, *_: values(x))
def index_weights(x: Tensor, heads: int, dim: int) -> Tensor:
    """Returns the heads' weights from their projection x [n, heads]: both factors applied, rounded once."""
    return x * (dim**-0.5 * heads**-0.5)


def index_scores(q: Tensor, weights: Tensor, keys: Tensor, arithmetic: Arithmetic) -> Tensor:
    """q [n, heads, dim], weights [n, heads], keys [m, dim] -> scores [n, m] float32.

    Released: the dot product, its product with the weight and the sum over heads are each rounded to bfloat16.
    """
    count("index", 2 * q.numel() * len(keys))
    count("index heads", 3 * q.shape[0] * q.shape[1] * len(keys))  # relu, weight, sum
    wide = arithmetic.accumulate
    dots = torch.matmul(q.to(wide), keys.to(wide).T)
    if arithmetic.rounds_index:
        dots = (dots.to(torch.bfloat16).relu_() * weights.to(torch.bfloat16)[..., None]).to(wide)
        return dots.sum(1).to(torch.bfloat16).to(wide)
    return torch.matmul(weights.to(wide)[:, None], dots.relu_()).squeeze(1)


class RunningTopK:
    """The k best entries of each of n queries, over scores that arrive block by block. Ties go to the earlier entry.

    A candidate is one sortable int64 (score bits above, inverted index below), so that the choice does not depend on
    the cuts between blocks of entries.
    """

    def __init__(self, n: int, k: int, device: torch.device):
        self.k = k
        self.keys = torch.empty((n, 0), dtype=torch.int64, device=device)

    def add(self, scores: Tensor, first: int, visible: Tensor) -> None:
        """scores [n, m] of entries first .. first + m; visible [n] counts the entries that each query may see."""
        count("top-k", scores.numel())
        index = torch.arange(first, first + scores.shape[1], device=scores.device)
        bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0: -0 and 0 tie
        order = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats have descending bits
        keys = (order.to(torch.int64) << 32) | (0xFFFFFFFF - index)
        keys = keys.masked_fill(index >= visible[:, None], torch.iinfo(torch.int64).min)
        keys = torch.cat((self.keys, keys), 1)
        self.keys = keys.topk(min(self.k, keys.shape[1]), dim=1, sorted=False).values

    def finish(self) -> Tensor:
        """Returns entries [n, <= k] int64, best first, then -1 where a query sees fewer."""
        keys = self.keys.sort(dim=1, descending=True).values
        index = 0xFFFFFFFF - (keys & 0xFFFFFFFF)
        return index.masked_fill(keys == torch.iinfo(torch.int64).min, -1)
