"""A pass that fails or is interrupted, wherever that happens: the sequences go on as if it had never begun."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.cache.synthetic import TwinPool
from tests.small import SMALL
from wavefold.cache import Pool, PoolFull, Sequence, paged_view, pool
from wavefold.checkpoint.random import random_model
from wavefold.model import Transformer, transformer
from wavefold.ops import Arithmetic

CONFIG = SMALL.replace(num_hidden_layers=4, compress_ratios=(0, 4, 128, 4), index_n_heads=8, num_nextn_predict_layers=0)
TOKENS = torch.randint(0, 64, (700,), generator=torch.Generator().manual_seed(0))
ERRORS = (RuntimeError, KeyboardInterrupt)


class Failure:
    """Raises `error` instead of (or, `late`, after) the `after`-th call of a function; `calls` counts them."""

    def __init__(self, error: type[BaseException], after: int, late: bool = False):
        self.error, self.after, self.late, self.calls = error, after, late, 0

    def __call__(self, original: Callable) -> Callable:
        def wrapper(*args, **kwargs):  # type: ignore[no-untyped-def]
            self.calls += 1
            if self.calls != self.after:
                return original(*args, **kwargs)
            if self.late:
                original(*args, **kwargs)
            raise self.error("interrupted on purpose")

        return wrapper


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(CONFIG, seed=0, arithmetic=Arithmetic("exact"))


def forked(model: Transformer) -> tuple[Pool, list[Sequence]]:
    """Two forks of 130 tokens, so that the next pass copies a block, and a third sequence that is still empty."""
    pool = model.new_pool(2048, poison=True)
    first = pool.open()
    model.extend(TOKENS[:130], [first], [130])
    return pool, [first, first.fork(), pool.open()]


def go_on(model: Transformer, sequences: list[Sequence]) -> Tensor:
    """The pass that is interrupted, and one token more for each."""
    hidden = model.extend(TOKENS[200:400], sequences, [140, 9, 51])
    return torch.cat((hidden, model.extend(TOKENS[:3], sequences, [1, 1, 1])))


@pytest.fixture
def undisturbed(model: Transformer) -> Tensor:
    return go_on(model, forked(model)[1])


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", ["block", "attention", "moe", "append", "final"])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_in_a_pass(
    model: Transformer,
    undisturbed: Tensor,
    error: type[BaseException],
    place: str,
    late: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool_, sequences = forked(model)
    lengths, tables = [s.num_tokens for s in sequences], [len(s.table) for s in sequences]
    owner, name, after = {
        "block": (model.layers[2], "forward", 1),
        "attention": (model.layers[3].attn, "attend", 2),
        "moe": (model.experts, "routed", 4),
        "append": (pool.PagedView, "append", 5),
        "final": (model, "final", 1),
    }[place]
    with monkeypatch.context() as patch, pytest.raises(error, match="on purpose"):
        patch.setattr(owner, name, Failure(error, after, late)(getattr(owner, name)))
        model.extend(TOKENS[300:500], sequences, [100, 50, 50])
    assert [s.num_tokens for s in sequences] == lengths
    assert [len(s.table) for s in sequences] == tables
    pool_.check_integrity()
    assert torch.equal(go_on(model, sequences), undisturbed)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    ("owner", "name", "after", "late"),
    [
        (Pool, "_copy_block", 1, False),
        (Pool, "_copy_block", 1, True),
        (pool.BlockAllocator, "allocate", 1, False),
        (pool.BlockAllocator, "allocate", 2, False),
        (pool, "PagedView", 1, False),
        (pool, "PagedView", 3, True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_while_blocks_are_taken(
    model: Transformer,
    undisturbed: Tensor,
    error: type[BaseException],
    owner: object,
    name: str,
    after: int,
    late: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool_, sequences = forked(model)
    with monkeypatch.context() as patch, pytest.raises(error, match="on purpose"):
        patch.setattr(owner, name, Failure(error, after, late)(getattr(owner, name)))
        model.extend(TOKENS[300:500], sequences, [100, 50, 50])
    pool_.check_integrity()
    assert torch.equal(go_on(model, sequences), undisturbed)


@pytest.mark.parametrize("after", [1, 2, 7, 12, 20, 27])
def test_a_commit_is_completed_before_its_interruption_goes_on(
    model: Transformer, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a commit would have overwritten rows that the sequence still needs."""
    pool_, sequences = forked(model)
    failure = Failure(KeyboardInterrupt, after)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(paged_view, "ring_store", failure(paged_view.ring_store))
        model.extend(TOKENS[200:400], sequences, [140, 9, 51])
    assert failure.calls > after
    assert [s.num_tokens for s in sequences] == [270, 139, 51]
    pool_.check_integrity()
    _, others = forked(model)
    model.extend(TOKENS[200:400], others, [140, 9, 51])
    one_more = TOKENS[:3], [1, 1, 1]
    assert torch.equal(*(model.extend(one_more[0], some, one_more[1]) for some in (sequences, others)))


@pytest.mark.parametrize("error", ERRORS)
def test_in_the_third_of_several_passes(
    model: Transformer, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes stay; the call may be repeated for the tokens that are in no sequence."""
    monkeypatch.setattr(transformer, "PASS_TOKENS", 64)
    whole = model.new_pool(1024, poison=True).open()
    expected = model.extend(TOKENS[:300], [whole], [300])
    sequence = model.new_pool(1024, poison=True).open()
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(model.layers[1], "forward", Failure(error, 3)(model.layers[1].forward))
        model.extend(TOKENS[:300], [sequence], [300])
    assert sequence.num_tokens == 128
    sequence.pool.check_integrity()
    assert torch.equal(model.extend(TOKENS[128:300], [sequence], [172]), expected[128:])


def test_errors_before_a_pass_change_nothing(model: Transformer, undisturbed: Tensor) -> None:
    pool_, sequences = forked(model)
    foreign = model.new_pool(128).open()
    closed = pool_.open()
    closed.close()
    tables = [list(s.table) for s in sequences]
    bad = TOKENS.clone()
    bad[3] = 64
    for tokens, some, counts, message in (
        (TOKENS[:4], sequences, [2, 1, 2], "do not fit"),
        (TOKENS[:4], sequences, [2, 2], "do not fit"),
        (TOKENS[:4], sequences, [2, 2, 0], "count of 0"),
        (TOKENS[:4], [sequences[0], sequences[0]], [2, 2], "twice"),
        (TOKENS[:4], [sequences[0], foreign], [2, 2], "another pool"),
        (TOKENS[:4], [sequences[0], closed], [2, 2], "closed"),
        (TOKENS[:0], [], [], "no sequences"),
        (bad[:4], sequences[:1], [4], "token 64 is not allowed; expected 0 to 63"),
        (TOKENS[:4].int(), sequences[:1], [4], "dtype torch.int32"),
    ):
        with pytest.raises(ValueError, match=message):
            model.extend(tokens, some, counts)
    with pytest.raises(PoolFull):
        model.extend(TOKENS.repeat(4), sequences, [2200, 300, 300])
    assert [list(s.table) for s in sequences] == tables
    pool_.check_integrity()
    assert torch.equal(go_on(model, sequences), undisturbed)


def test_an_aborted_pass_may_be_longer_than_the_rings() -> None:
    twins = TwinPool(8)
    twin = twins.open()
    twins.extend([twin], [190])
    twins.extend([twin], [400], complete=False)
    twin.check()
    twins.rewind(twin, 16)
    twin.check()
    twins.check()
