"""The cache of released arithmetic in packed bytes: the same numbers as in bfloat16, in 57 % of the bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wavefold.cache import Records, packed_records, plain_records
from wavefold.checkpoint.random import random_model
from wavefold.config import ModelConfig
from wavefold.model import Transformer
from wavefold.ops import Arithmetic

NANO = ModelConfig.preset("nano")
TOKENS = torch.randint(0, NANO.vocab_size, (1100,), generator=torch.Generator().manual_seed(3))


def run(model: Transformer, records: Records | None) -> Tensor:
    """A prompt in two calls, then single tokens; more entries than the indexer keeps."""
    sequence = model.new_pool(len(TOKENS), records, poison=True).open()
    runs = TOKENS.split([1000, 90, *(1,) * 10])
    return torch.cat([model.extend(tokens, [sequence], [len(tokens)]) for tokens in runs])


@pytest.fixture(scope="module")
def released() -> Transformer:
    return random_model(NANO, 0, Arithmetic("released", torch.bfloat16), packed=True)


def test_released_arithmetic_computes_the_same_bits(released: Transformer) -> None:
    assert released.records == packed_records(NANO)
    assert torch.equal(run(released, None), run(released, plain_records(NANO, torch.bfloat16)))


def test_a_cache_that_is_not_what_released_arithmetic_rounds_to_shows(released: Transformer) -> None:
    """The check above has teeth: keeping the rotary part in FP8 as well changes the output."""
    from wavefold.cache.record import IndexRecord, KVRecord

    coarse = Records(KVRecord(NANO.head_dim, 0), IndexRecord(NANO.index_head_dim))
    assert not torch.equal(run(released, coarse), run(released, None))


def test_exact_arithmetic_may_pack_too_and_pays_for_it() -> None:
    """Rounding error of FP8 (2^-4 at most for a value, less in a sum) and no more: nothing is misplaced."""
    model = random_model(NANO, 0, Arithmetic("exact", torch.float32), packed=True)
    assert model.records == plain_records(NANO, torch.float32)
    short = TOKENS[:400]  # all entries are chosen: coarse index keys change nothing
    outputs = []
    for records in (None, packed_records(NANO)):
        sequence = model.new_pool(len(short), records).open()
        outputs.append(torch.cat([model.extend(t, [sequence], [len(t)]) for t in short.split([300, 60, *(1,) * 40])]))
    error = (outputs[1] - outputs[0]).norm() / outputs[0].norm()
    assert 1e-5 < error < 0.05, error
