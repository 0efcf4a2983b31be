"""Random numbers of a request that depend on nothing else: not on the batch, not on what was drawn before.

    (seed, position, index) -> Philox4x32-10 -> 53 bits -> [0, 1)

Philox is a counter-based generator: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011). A request that
is preempted and read again, or continued elsewhere with its answer as a prompt, draws the same numbers. Drafts need no
numbers of their own: a draft is right if it is the token that the number of its position chooses.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
"""What the two words of the key grow by in each round."""
LOW = 0xFFFFFFFF

Words = tuple[Tensor, ...]
"""Unsigned words of 32 bits, each in an int64."""


def uniform(seeds: Tensor, positions: Tensor, index: Tensor | int = 0) -> Tensor:
    """seeds, positions int64 [n], not negative -> float64 [n] in [0, 1), multiples of 2^-53.

    `positions`: the number of tokens before the one that is chosen, the prompt's included. `index`: which of the `n`
    answers to a prompt, int64 [n] or one number, below 2^32.
    """
    zeros = torch.zeros_like(positions)
    counter = positions & LOW, positions >> 32, zeros + index, zeros
    high, low, _, _ = philox(counter, (seeds & LOW, seeds >> 32))
    return ((high >> 5) * 2**26 + (low >> 6)).double() / 2**53


def philox(counter: Words, key: Words) -> Words:
    """Philox4x32-10: a counter of four words and a key of two -> four random words."""
    a, b, c, d = counter
    first, second = key
    for _ in range(ROUNDS):
        high_a, low_a = _product(a, MULTIPLIERS[0])
        high_c, low_c = _product(c, MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
        first, second = (first + WEYL[0]) & LOW, (second + WEYL[1]) & LOW
    return a, b, c, d


def _product(words: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """Returns the high and the low word of words * multiplier. The product of int64 wraps to the same 64 bits."""
    product = words * multiplier
    return (product >> 32) & LOW, product & LOW
