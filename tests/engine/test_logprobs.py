"""Log probabilities against numpy in float64."""

from __future__ import annotations

import numpy as np
import torch

from wavefold.engine.logprobs import TokenLogprob, logprobs


def test_by_definition() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (6, 30)).astype(np.float32)
    ids = [3, 0, 29, 7, int(logits[4].argmax()), 11]
    found = logprobs(torch.from_numpy(logits), ids, 5)
    for row, token, entry in zip(logits.astype(np.float64), ids, found, strict=True):
        exact = row - row.max() - np.log(np.exp(row - row.max()).sum())
        order = sorted(range(30), key=lambda other: -exact[other])
        assert (entry.id, entry.rank) == (token, order.index(token))
        assert [other for other, _ in entry.best] == order[:5]
        np.testing.assert_allclose([entry.logprob, *(value for _, value in entry.best)],
                                   exact[[token, *order[:5]]], rtol=1e-12)  # fmt: skip


def test_none_but_the_token_that_came() -> None:
    [entry] = logprobs(torch.zeros(1, 4), [2], 0)
    assert entry == TokenLogprob(2, entry.logprob, 2, ())
    assert abs(entry.logprob + np.log(4)) < 1e-15
