"""What is counted of a Markov chain's tokens and of guesses of them, and how likely such counts are.

    pairs      each token with the one before it: chi-square against the rows of the chain
    guesses    how many were right: against the sum of their probabilities

Look-up guesses are tokens of the chain too, so a rule that accepts too many of them leaves pairs as they should be; it
does not leave the number of right guesses so. A guess that knows the numbers which choose tokens, as MTP's does, is
right more often than its probability, and is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.stats import chi2
from torch import Tensor


class Counts:
    """Counts of all answers. `blind`: guesses are made without the numbers that choose tokens."""

    def __init__(self, vocab: int, blind: bool):
        self._blind = blind
        self._pairs, self._tried, self._right = ([[0] * vocab for _ in range(vocab)] for _ in range(3))
        """[token before][token], or [token before][guess] of the guesses that were compared."""
        self.drafts = self.accepted = self.drawn = 0

    def take(self, last: int, drafts: Sequence[int], tokens: Sequence[int]) -> None:
        """Counts the tokens after `last`, and the guesses of them."""
        self.drawn += len(tokens)
        self.drafts += len(drafts)
        self.accepted += len(tokens) - 1
        for before, token in zip([last, *tokens[:-1]], tokens, strict=True):
            self._pairs[before][token] += 1
        for before, guess, token in zip([last, *tokens], drafts, tokens, strict=False):
            self._tried[before][guess] += 1
            self._right[before][guess] += token == guess

    @property
    def accepted_share(self) -> float:
        return self.accepted / max(1, self.drafts)

    def pvalue(self, exact: Tensor) -> float:
        """Of both counts, for a chain with these probabilities [vocab, vocab]."""
        return min(1.0, 2 * min(self.pvalue_of_pairs(exact), self.pvalue_of_guesses(exact)))

    def pvalue_of_pairs(self, exact: Tensor) -> float:
        """Of chi-square over all rows of the chain, 0 if a forbidden token came. Seldom tokens are one class."""
        statistic, freedom = 0.0, 0
        for observed, probability in zip(torch.tensor(self._pairs).double(), exact.double(), strict=True):
            expected = probability * observed.sum()
            if bool((observed[probability == 0] > 0).any()):
                return 0.0
            often = expected >= 5
            classes = [(observed[often], expected[often]), (observed[~often].sum()[None], expected[~often].sum()[None])]
            for found, wanted in classes:
                wanted, found = wanted[wanted > 1e-9], found[wanted > 1e-9]
                statistic += float(((found - wanted) ** 2 / wanted).sum())
                freedom += len(wanted)
            freedom -= 1
        return float(chi2.sf(statistic, freedom))

    def pvalue_of_guesses(self, exact: Tensor) -> float:
        """Each guess is right with its own probability: their number is normal, with the sum of the variances."""
        tried, right = torch.tensor(self._tried).double(), torch.tensor(self._right).double()
        expected, variance = float((tried * exact).sum()), float((tried * exact * (1 - exact)).sum())
        if not self._blind or not variance:
            return 1.0
        return float(chi2.sf((float(right.sum()) - expected) ** 2 / variance, 1))
