"""A trace without a model: experts by Zipf's law, whose order depends on a layer and on the topic of the text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wavefold.experts.traces.trace import Trace, id_dtype

CHUNK = 64


def zipf_trace(
    rows: Sequence[int], num_layers: int, num_experts: int, topk: int, exponent: float, *, locality: float = 0.5,
    num_topics: int = 8, topic_tokens: int = 256, expert_bytes: int = 1, seed: int = 0,
) -> Trace:  # fmt: skip
    """Returns passes of `rows` tokens each.

    An expert's probability is rank^-`exponent`. Ranks are a share `locality` those of the topic and else the layer's;
    both orders are drawn for each layer. A topic lasts `topic_tokens` tokens in the mean. A token's `topk` experts are
    drawn without replacement. Raises ValueError for `topk` above `num_experts` and a locality outside [0, 1].
    """
    if not 1 <= topk <= num_experts:
        raise ValueError(f"topk = {topk} is not allowed; expected 1 to num_experts = {num_experts}")
    if not 0 <= locality <= 1:
        raise ValueError(f"locality = {locality} is not allowed; expected 0 to 1")
    draws = np.random.default_rng(seed)
    law = np.arange(1, num_experts + 1, dtype=np.float64) ** -exponent
    law /= law.sum()
    common = _orders(draws, law, num_layers)
    logs = np.log([(1 - locality) * common + locality * _orders(draws, law, num_layers) for _ in range(num_topics)])
    num_tokens = sum(rows)
    begins = draws.random(num_tokens) < 1 / topic_tokens
    topics = draws.integers(num_topics, size=num_tokens)[
        np.maximum.accumulate(np.where(begins, np.arange(num_tokens), 0))
    ]
    ids = np.empty((num_tokens, num_layers, topk), id_dtype(num_experts))
    for first in range(0, num_tokens, CHUNK):
        chosen = logs[topics[first : first + CHUNK]]
        chosen = chosen + draws.gumbel(size=chosen.shape)  # the largest k are k draws without replacement
        ids[first : first + CHUNK] = np.argpartition(-chosen, topk - 1, axis=2)[..., :topk]
    return Trace(np.array(rows, np.int32), ids, num_experts, expert_bytes)


def _orders(draws: np.random.Generator, law: np.ndarray, num_layers: int) -> np.ndarray:
    """Returns probabilities [layers, experts]: the law in an order of each layer's own."""
    return np.stack([draws.permutation(law) for _ in range(num_layers)])
