"""Sequences of very different pasts in one pass are those sequences alone, whatever threads share their attention."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from tests.small import SMALL
from wavefold import ops
from wavefold.checkpoint.random import random_model
from wavefold.ops import Arithmetic, native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

# attention in two spans of entries, and keys enough for the indexer to cut them in three
PASTS = (4200, 1, 2100, 130)
CONFIG = SMALL.replace(
    num_hidden_layers=3, hidden_size=96, head_dim=96, compress_ratios=(0, 4, 128, 0), index_n_heads=8,
    num_hash_layers=1, q_lora_rank=48, o_lora_rank=128, index_topk=1040,
)  # fmt: skip
TOKENS = torch.randint(0, CONFIG.vocab_size, (4, max(PASTS) + 8), generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("arithmetic", ["exact", "released"])
def test_many_sequences_are_each_of_them_alone(
    arithmetic: str, threads: Callable[[int], AbstractContextManager[None]]
) -> None:
    """One token of each, then more tokens of some than of others; the longest past comes first, then last."""
    with ops.using(backend="auto", batch_invariant=True):
        model = random_model(CONFIG, 1, Arithmetic(arithmetic, torch.bfloat16), packed=True)
        pool = model.new_pool(sum(PASTS) + 5000, poison=True)
        pasts = []
        for tokens, past in zip(TOKENS, PASTS, strict=True):
            sequence = pool.open()
            model.extend(tokens[:past], [sequence], [past])
            pasts.append(sequence)
        for counts in [(1, 1, 1, 1), (3, 1, 5, 2)]:
            parts = [tokens[p : p + n] for tokens, p, n in zip(TOKENS, PASTS, counts, strict=True)]
            alone = []
            for part, past in zip(parts, pasts, strict=True):
                sequence = past.fork()
                alone.append(model.extend(part, [sequence], [len(part)]))
                sequence.close()
            for count in (1, 2, 3, 5):
                for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
                    with threads(count):
                        sequences = [pasts[i].fork() for i in order]
                        lengths = [counts[i] for i in order]
                        together = model.extend(torch.cat([parts[i] for i in order]), sequences, lengths)
                    for i, hidden in zip(order, together.split(lengths), strict=True):
                        assert torch.equal(hidden, alone[i]), (count, counts, i)
                    for sequence in sequences:
                        sequence.close()
