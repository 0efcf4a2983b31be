"""Sequences that fork, rewind, or take blocks that others had: what only shares or forgets state agrees to the bit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.model.test_equivalence import CONFIG, LENGTH, TOKENS, assert_close, whole
from wavefold.cache import PoolFull
from wavefold.checkpoint.random import random_model
from wavefold.model import Transformer
from wavefold.ops import Arithmetic


@pytest.fixture(scope="module")
def exact() -> Transformer:
    return random_model(CONFIG, seed=1, arithmetic=Arithmetic("exact"))


@pytest.fixture(scope="module", params=["exact", "released"])
def either(request: pytest.FixtureRequest, exact: Transformer) -> Transformer:
    if request.param == "exact":
        return exact
    return random_model(CONFIG, 1, Arithmetic("released", torch.bfloat16), packed=True)


def runs(model: Transformer, sequence, start: int, lengths: Sequence[int], row: int = 0) -> Tensor:  # type: ignore[no-untyped-def]
    """Extend one sequence by these runs of TOKENS[row, start:]: their hidden states."""
    parts = TOKENS[row, start : start + sum(lengths)].split(list(lengths))
    return torch.cat([model.extend(part, [sequence], [len(part)]) for part in parts])


@pytest.mark.parametrize("past", [1, 3, 4, 6, 127, 128, 129, 200, 256, 259])
def test_forks(either: Transformer, past: int) -> None:
    """The fork, the original, and the fork of the fork continue as sequences that never met."""
    after = (1, 5, 60)
    expected = []
    for row in range(3):
        alone = either.new_pool(LENGTH, poison=True).open()
        runs(either, alone, 0, [past])
        expected.append(runs(either, alone, past, after, row))
    pool = either.new_pool(4 * LENGTH, poison=True)
    first = pool.open()
    runs(either, first, 0, [past])
    second = first.fork()
    third = second.fork()
    pool.check_integrity()
    for sequence, row in ((third, 2), (first, 0), (second, 1)):
        assert torch.equal(runs(either, sequence, past, after, row), expected[row])
    pool.check_integrity()


@pytest.mark.parametrize("past", [6, 128, 200])
def test_forks_in_one_call(either: Transformer, past: int) -> None:
    """Both write to the block they share, in the same pass."""

    def continued(forked: bool) -> Tensor:
        pool = either.new_pool(2 * LENGTH, poison=True)
        first = pool.open()
        runs(either, first, 0, [past])
        second = first.fork() if forked else pool.open()
        if not forked:
            runs(either, second, 0, [past])
        both = torch.cat((TOKENS[1, :70], TOKENS[2, :9])), [first, second], [70, 9]
        outputs = [either.extend(*both)]
        outputs += [either.extend(TOKENS[:2, i].contiguous(), [first, second], [1, 1]) for i in range(5)]
        pool.check_integrity()
        return torch.cat(outputs)

    assert torch.equal(continued(forked=True), continued(forked=False))


@pytest.mark.parametrize("past", [1, 4, 5, 120, 127, 128, 131, 250, 257])
def test_rewinds(either: Transformer, past: int) -> None:
    """Tokens that are taken back leave no trace, whatever blocks they completed."""
    after = (1, 3, 17, 40)
    alone = either.new_pool(LENGTH, poison=True).open()
    runs(either, alone, 0, [past])
    expected = runs(either, alone, past, after)
    for tried in ((16,), (5, 5, 6), (4, 1)):
        sequence = either.new_pool(LENGTH, poison=True).open()
        runs(either, sequence, 0, [past])
        runs(either, sequence, 60, tried, row=2)
        sequence.rewind(sum(tried))
        sequence.pool.check_integrity()
        assert torch.equal(runs(either, sequence, past, after), expected)


@pytest.mark.parametrize("past", [3, 119, 126, 250])
def test_a_fork_that_rewinds(either: Transformer, past: int) -> None:
    """The fork steps back into a block that the original goes on using."""
    alone = either.new_pool(LENGTH, poison=True).open()
    runs(either, alone, 0, [past])
    back = runs(either, alone, past, (1, 30), row=1)
    pool = either.new_pool(3 * LENGTH, poison=True)
    first = pool.open()
    runs(either, first, 0, [past])
    here = runs(either, first, past, (10,))
    fork = first.fork()
    fork.rewind(10)
    assert torch.equal(runs(either, fork, past, (1, 30), row=1), back)
    other = either.new_pool(LENGTH, poison=True).open()
    runs(either, other, 0, [past])
    assert torch.equal(runs(either, other, past, (10,)), here)
    assert torch.equal(runs(either, first, past + 10, (1, 25)), runs(either, other, past + 10, (1, 25)))


def test_a_partial_rewind(exact: Transformer) -> None:
    """A draft of 16 of which some are right, over and over: as in speculative decoding."""
    expected = whole(exact, TOKENS[0])
    sequence = exact.new_pool(LENGTH + 16, poison=True).open()
    runs(exact, sequence, 0, [100])
    for right in (3, 16, 0, 15, 1, 9, 4, 12, 16, 2, 8):
        start = sequence.num_tokens
        draft = torch.cat((TOKENS[0, start : start + right], TOKENS[1, : 16 - right]))
        hidden = exact.extend(draft, [sequence], [16])
        assert_close(hidden[:right], expected[start : start + right]) if right else None
        sequence.rewind(16 - right)
    assert_close(runs(exact, sequence, sequence.num_tokens, [40]), expected[sequence.num_tokens - 40 :][:40])


def test_reused_blocks_hold_nothing_of_their_last_sequence(either: Transformer) -> None:
    fresh = either.new_pool(LENGTH, poison=True).open()
    lengths = (3, 130, 1, 1, 120)
    expected = runs(either, fresh, 0, lengths)
    pool = either.new_pool(3 * 128, poison=True)
    for row in (1, 2, 1):
        sequence = pool.open()
        runs(either, sequence, 0, (200, 1, 150), row)
        with pytest.raises(PoolFull):
            either.extend(TOKENS[0, :40], [sequence], [40])
        sequence.close()
        pool.check_integrity()
        sequence = pool.open()
        assert torch.equal(runs(either, sequence, 0, lengths), expected)
        sequence.close()
    assert pool.blocks.num_free == 3


def test_neighbours_in_a_pool_do_not_touch(either: Transformer) -> None:
    """Sequences take turns in one pool; each is as it is alone."""
    lengths = (5, 120, 1, 9, 1, 130)
    expected = [runs(either, either.new_pool(LENGTH, poison=True).open(), 0, lengths, row) for row in range(3)]
    pool = either.new_pool(4 * LENGTH, poison=True)
    sequences = [pool.open() for _ in range(3)]
    outputs: list[list[Tensor]] = [[], [], []]
    for length in lengths:
        for row, sequence in enumerate(sequences):
            outputs[row].append(runs(either, sequence, sequence.num_tokens, [length], row))
    for row in range(3):
        assert torch.equal(torch.cat(outputs[row]), expected[row])
