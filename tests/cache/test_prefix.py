"""The prefix cache: what a text is opened with, what makes room, what a report elsewhere was about."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path
from random import Random

import pytest
import torch

from tests.cache import conversations, many_threads
from tests.cache.conversations import live_rows, model_of
from tests.cache.spaces import MemorySpace
from tests.small import small_model
from wavefold.cache import BLOCK_TOKENS, Chain, Pool, PoolFull, PrefixCache, Sequence, Tip
from wavefold.cache.chain import common_tokens
from wavefold.model import Transformer
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="no CPU kernels, which alone are batch-invariant")
TOKENS = [int(token) for token in torch.randint(0, 40, (900,), generator=torch.Generator().manual_seed(0))]
OTHER = [(token + 1) % 40 for token in TOKENS]
ROOT = b"r" * 32


@pytest.fixture(scope="module")
def model() -> Transformer:
    return model_of("released")


def cache_of(
    model: Transformer, num_blocks: int = 20, max_states: int = 50, space: MemorySpace | None = None
) -> PrefixCache:
    return PrefixCache(model.new_pool(num_blocks * BLOCK_TOKENS, poison=True), max_states, ROOT, space)


def read(model: Transformer, cache: PrefixCache, tokens: Seq[int], sequence: Sequence | None = None) -> Sequence:
    """A sequence of `tokens`: a new one, or one that has the first of them."""
    sequence = sequence or cache.pool.open()
    new = tokens[sequence.num_tokens :]
    model.extend(torch.tensor(new), [sequence], [len(new)])
    return sequence


def keep(model: Transformer, cache: PrefixCache, tokens: Seq[int]) -> None:
    """Reads a text and keeps it, with a state at its end."""
    sequence = read(model, cache, tokens)
    cache.keep(sequence, Chain(ROOT, tokens), sequence.tip(len(tokens)))
    sequence.close()


def check_as_cold(model: Transformer, sequence: Sequence, tokens: Seq[int]) -> None:
    """Its rows, and the hidden states of what comes next, are those of a sequence that read all at once."""
    count = sequence.num_tokens
    cold = model.new_pool(1024).open()
    model.extend(torch.tensor(tokens[:count]), [cold], [count])
    for ours, rows in zip(live_rows(sequence, count), live_rows(cold, count), strict=True):
        assert torch.equal(ours, rows)
    more = torch.tensor(tokens[count : count + 40])
    assert torch.equal(model.extend(more, [sequence], [len(more)]), model.extend(more, [cold], [len(more)]))


def test_chains() -> None:
    chain = Chain(ROOT, TOKENS[:300])
    assert len(chain) == 300 and len(chain.keys) == 2 and chain.text(2) == torch.tensor(
        TOKENS[256:300], dtype=torch.int32
    ).numpy().tobytes()  # fmt: skip
    later = Chain(ROOT, TOKENS[:100])
    later.extend(TOKENS[100:300])
    assert later.keys == chain.keys
    assert chain.common(Chain(ROOT, TOKENS[:280])) == 280
    assert chain.common(Chain(ROOT, [*TOKENS[:130], *OTHER[130:300]])) == 130
    assert chain.common(Chain(ROOT, OTHER)) == 0
    assert not set(Chain(b"s" * 32, TOKENS[:300]).keys) & set(chain.keys), "another model has other keys"
    assert Chain(ROOT, [*OTHER[:128], *TOKENS[128:256]]).keys[1] != chain.keys[1], "a key says all that came before"
    assert common_tokens(b"\1\0\0\0\2\0\0\0", b"\1\0\0\0\2\1\0\0") == 1


@pytest.mark.parametrize("length", [1, 5, 127, 128, 129, 300, 512])
@pytest.mark.parametrize("more", [1, 60, 200])
def test_a_text_goes_on_where_it_was_kept(model: Transformer, length: int, more: int) -> None:
    """A hit has windows and tails, not entries alone, wherever in a block it lies; nothing is too short for one."""
    cache = cache_of(model)
    keep(model, cache, TOKENS[:length])
    opened = cache.open(Chain(ROOT, TOKENS[: length + more]), length + more - 1)
    assert opened.sequence is not None and opened.sequence.num_tokens == length == opened.shared
    check_as_cold(model, opened.sequence, TOKENS)
    cache.pool.check_integrity()


@pytest.mark.parametrize("length", [2, 100, 128, 129, 256, 300])
def test_a_prompt_that_is_cached_as_a_whole_has_its_last_token_run(model: Transformer, length: int) -> None:
    cache = cache_of(model)
    keep(model, cache, TOKENS[:length])
    opened = cache.open(Chain(ROOT, TOKENS[:length]), length - 1)
    assert opened.sequence is not None and opened.sequence.num_tokens == length - 1 and opened.shared == length
    check_as_cold(model, opened.sequence, TOKENS)


@pytest.mark.parametrize(
    ("left", "found"), [(299, 299), (284, 284), (283, 128), (200, 128), (129, 128), (127, 127), (112, 112), (111, 0)]
)
def test_a_text_that_leaves_a_kept_one(model: Transformer, left: int, found: int) -> None:
    """Up to 16 tokens before an end a sequence steps back; else it goes on at the end before."""
    cache = cache_of(model)
    sequence = read(model, cache, TOKENS[:128])
    chain = Chain(ROOT, TOKENS[:300])
    cache.keep(sequence, chain, sequence.tip(128))
    read(model, cache, TOKENS[:300], sequence)
    cache.keep(sequence, chain, sequence.tip(300))
    sequence.close()
    text = [*TOKENS[:left], *OTHER[left:500]]
    opened = cache.open(Chain(ROOT, text), 499)
    assert opened.shared == left, "the position at which an edit shows itself"
    assert (opened.sequence.num_tokens if opened.sequence else 0) == found
    if opened.sequence:
        check_as_cold(model, opened.sequence, text)


def test_texts_share_their_blocks(model: Transformer) -> None:
    """Also those that were read side by side, before either was kept."""
    cache = cache_of(model)
    first, second = read(model, cache, TOKENS[:300]), read(model, cache, TOKENS[:300])
    assert cache.pool.blocks.num_free == 20 - 6
    for sequence in (first, second):
        cache.keep(sequence, Chain(ROOT, TOKENS[:300]), sequence.tip(300))
    assert first.table[:2] == second.table[:2] and cache.pool.blocks.num_free == 20 - 4
    read(model, cache, TOKENS[:400], first)
    check_as_cold(model, second, TOKENS)
    check_as_cold(model, first, TOKENS)
    cache.pool.check_integrity()


def test_states_are_few_and_the_least_recent_goes(model: Transformer) -> None:
    """The state of every block was stored elsewhere: 300 GB for a million tokens."""
    cache = cache_of(model, 20, max_states=2)
    for length in (128, 256, 300):
        keep(model, cache, TOKENS[:length])
    assert cache.num_bytes == 2 * cache.pool.layout.state_bytes
    assert cache.find(Chain(ROOT, TOKENS[:200]), 199).num_tokens == 0
    assert cache.find(Chain(ROOT, TOKENS[:300]), 299).num_tokens == 299
    opened = cache.open(Chain(ROOT, TOKENS[:270]), 269)
    assert opened.sequence is not None and opened.sequence.num_tokens == 256
    keep(model, cache, OTHER[:50])
    assert cache.find(Chain(ROOT, TOKENS[:300]), 299).num_tokens == 256, "it was used later than the other one"


def test_blocks_are_given_up_when_others_need_them(model: Transformer) -> None:
    """Tails before heads, what was used longest ago first, and never what a sequence holds."""
    cache = cache_of(model, 8)
    keep(model, cache, TOKENS[:300])
    keep(model, cache, OTHER[:256])
    running = cache.open(Chain(ROOT, TOKENS[:300]), 299).sequence
    assert running is not None and cache.pool.blocks.num_free == 3
    other = read(model, cache, [9] * 500)
    assert cache.find(Chain(ROOT, OTHER[:300]), 299).shared == 128, "its tail went, its head is there"
    assert cache.find(Chain(ROOT, TOKENS[:300]), 299).num_tokens == 299
    cache.pool.check_integrity()
    with pytest.raises(PoolFull):
        model.extend(torch.tensor([1] * 400), [other], [400])
    check_as_cold(model, running, TOKENS)
    other.close()
    read(model, cache, TOKENS[:700], running)
    cache.pool.check_integrity()


def test_a_sequence_may_have_the_whole_pool(model: Transformer) -> None:
    """Its last block is shared with an end: that is given up in place of a copy for which there is no room."""
    cache = cache_of(model, 3)
    sequence = read(model, cache, TOKENS[:300])
    cache.keep(sequence, Chain(ROOT, TOKENS[:300]), sequence.tip(300))
    assert cache.pool.blocks.num_free == 0
    check_as_cold(model, sequence, TOKENS)
    cache.pool.check_integrity()


def test_what_cannot_be_trusted_is_forgotten(model: Transformer) -> None:
    cache = cache_of(model)
    keep(model, cache, TOKENS[:200])
    keep(model, cache, TOKENS[:600])
    cache.forget(Chain(ROOT, TOKENS[:600]), 200)
    assert cache.find(Chain(ROOT, TOKENS[:600]), 599).num_tokens == 200
    cache.pool.check_integrity()
    cache.clear()
    assert cache.pool.blocks.num_free == 20 and not cache.num_bytes


@pytest.mark.parametrize("name", ["_adopt", "_put_end", "_touch", "_drop_end"])
def test_an_interruption_loses_no_block(model: Transformer, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """After the change and before its other half: nothing is kept then, and sequences have what they had."""
    cache = cache_of(model, max_states=1)
    keep(model, cache, OTHER[:300])
    running = read(model, cache, TOKENS[:300])
    right = getattr(PrefixCache, name)

    def interrupted(self: PrefixCache, *arguments: object) -> None:
        right(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PrefixCache, name, interrupted)
        cache.keep(running, Chain(ROOT, TOKENS[:300]), running.tip(300))
    cache.pool.check_integrity()
    assert cache.pool.blocks.num_free == 17
    check_as_cold(model, running, TOKENS)
    keep(model, cache, TOKENS[:200])
    assert cache.find(Chain(ROOT, TOKENS[:300]), 299).num_tokens == 200


def test_a_new_process_goes_on(model: Transformer) -> None:
    space = MemorySpace()
    cache = cache_of(model, space=space)
    keep(model, cache, TOKENS[:384])
    keep(model, cache, TOKENS[:450])
    assert len(space.blocks) == 3 and len(space.states) == 1
    assert space.parents == {key: parent for key, parent in zip(
        Chain(ROOT, TOKENS[:384]).keys, [ROOT, *Chain(ROOT, TOKENS[:384]).keys], strict=False
    )}  # fmt: skip
    again = cache_of(model, space=space)
    opened = again.open(Chain(ROOT, TOKENS[:500]), 499)
    assert opened.sequence is not None
    assert (opened.sequence.num_tokens, opened.on_disk, opened.shared) == (384, 384, 384)
    check_as_cold(model, opened.sequence, TOKENS)
    opened = again.open(Chain(ROOT, TOKENS[:500]), 499)
    assert (opened.on_disk, space.num_read) == (0, 3), "the second time it is in memory"
    again.pool.check_integrity()


def test_a_state_alone_is_read_where_the_blocks_are_here(model: Transformer) -> None:
    space = MemorySpace()
    cache = cache_of(model, max_states=1, space=space)
    keep(model, cache, TOKENS[:256])
    keep(model, cache, TOKENS[:384])
    opened = cache.open(Chain(ROOT, TOKENS[:300]), 299)
    assert opened.sequence is not None and (opened.sequence.num_tokens, opened.on_disk) == (256, 0)
    check_as_cold(model, opened.sequence, TOKENS)


@pytest.mark.parametrize("which", ["block", "state"])
def test_a_record_that_is_bad_is_a_miss(model: Transformer, which: str) -> None:
    """Not an error, and not one that comes again: the shorter beginning is taken, and the rest is computed."""
    space = MemorySpace(Random(0))
    keep(model, cache_of(model, space=space), TOKENS[:256])
    keep(model, cache_of(model, space=space), TOKENS[:512])
    keys = Chain(ROOT, TOKENS[:512]).keys
    bad = {"block": space.blocks, "state": space.states}[which]
    right = bad[keys[3]]
    space._is_bad = lambda records, key, place: records is bad and records.get(key) is right  # type: ignore[method-assign]
    cache = cache_of(model, space=space)
    opened = cache.open(Chain(ROOT, TOKENS[:600]), 599)
    assert opened.sequence is not None and opened.sequence.num_tokens == 256
    check_as_cold(model, opened.sequence, TOKENS)
    cache.pool.check_integrity()


def test_a_bad_record_for_which_what_was_here_has_gone(model: Transformer) -> None:
    """The end that was found in memory gave its block to one that is read and turns out to be bad."""
    space = MemorySpace(Random(0))
    keep(model, cache_of(model, space=space), TOKENS[:512])
    cache = cache_of(model, 4, space=space)
    keep(model, cache, TOKENS[:100])
    space.faults = 1.0
    opened = cache.open(Chain(ROOT, TOKENS[:513]), 512)
    assert opened.sequence is None and space.num_bad > 0
    cache.pool.check_integrity()
    assert cache.pool.blocks.num_free == 4
    assert cache.open(Chain(ROOT, TOKENS[:513]), 512).sequence is None, "and it is not asked for again"


def test_a_disk_needs_room_in_the_pool(model: Transformer) -> None:
    """Blocks of chains that nobody reads go; those of sequences stay, and then the text is computed."""
    space = MemorySpace()
    keep(model, cache_of(model, space=space), TOKENS[:512])
    cache = cache_of(model, 5, space=space)
    keep(model, cache, OTHER[:256])
    opened = cache.open(Chain(ROOT, TOKENS[:600]), 599)
    assert opened.sequence is not None and opened.sequence.num_tokens == 512
    full = cache_of(model, 5, space=space)
    read(model, full, OTHER[:256])
    assert full.open(Chain(ROOT, TOKENS[:600]), 599).sequence is None
    for one in (cache, full):
        one.pool.check_integrity()


def test_random_conversations() -> None:
    """Forks, edits, cuts, cancelled answers, restarts, other models: tokens and bytes of a run without a cache."""
    counts = conversations.run(24, seed=1, names=conversations.INVARIANT, num_turns=4)
    assert counts["caches compared"] > 100 and counts["restarts"] > 8 and counts["cancelled"] > 3, counts
    assert counts["cached"] > 5000 < counts["computed"] and counts["disk"] > 500, counts


def test_random_conversations_in_float32() -> None:
    """Plain torch is not batch-invariant; its last bits do not decide which token is the most likely here."""
    counts = conversations.run(3, seed=2, names=["exact float32"], num_turns=2)
    assert counts["cached"] > 100, counts


def test_a_state_that_is_a_token_off_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands for one token more than its rings have. (One that is taken late has rows that a step back allows.)"""
    keep = PrefixCache.keep

    def off(self: PrefixCache, sequence: Sequence, chain: Chain, tip: Tip) -> None:
        if len(chain) > tip.num_tokens and tip.num_tokens % BLOCK_TOKENS not in (0, BLOCK_TOKENS - 1):
            tip = tip._replace(num_tokens=tip.num_tokens + 1, high=tip.high + 1)
        keep(self, sequence, chain, tip)

    monkeypatch.setattr(PrefixCache, "keep", off)
    with pytest.raises(AssertionError, match="cold"):
        conversations.run(30, seed=1, names=conversations.INVARIANT, num_turns=4)


def test_a_state_from_too_far_ahead_is_refused(model: Transformer) -> None:
    sequence = read(model, cache_of(model), TOKENS[:145])
    assert sequence.reaches(129) and not sequence.reaches(128)
    with pytest.raises(AssertionError, match="the rings have lost rows"):
        sequence.tip(128)


def test_a_stale_ring_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hit that restores entries and not the windows of a layer."""
    open_at = Pool.open_at

    def stale(self: Pool, table: Seq[int], tip: object) -> Sequence:
        sequence = open_at(self, table, tip)  # type: ignore[arg-type]
        sequence.state.windows[0].view(torch.uint8).zero_()
        return sequence

    monkeypatch.setattr(Pool, "open_at", stale)
    with pytest.raises(AssertionError, match="cold"):
        conversations.run(30, seed=1, names=conversations.INVARIANT, num_turns=4)


@pytest.mark.parametrize("on_disk", [False, True])
def test_many_threads(tmp_path: Path, on_disk: bool) -> None:
    """Each asks a few times; `python -m tests.cache.many_threads` goes on for ten minutes."""
    counts = many_threads.run(small_model(tmp_path / "model", many_threads.CONFIG), 3, 64, on_disk)
    assert counts["answers"] >= 128 and counts["checks"] >= 1 and counts["computed"] < counts["asked"], counts
