"""A look at a model that answers: requests keep their tokens, and the record does not depend on who else runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from wavefold import LLM, Sampling, load, ops
from wavefold.engine import Runner
from wavefold.inside import Seen, inside_answer, look, look_at, read
from wavefold.locate import DEFAULT_MODEL
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
TEXT = Path(read.__file__).read_text(encoding="utf-8")
PROMPTS = ["def main():", "import os\n", "class Tree:\n    def "]
SAMPLING = Sampling(max_tokens=60, temperature=0.8, seed=3)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """The shipped model with sums that do not depend on the batch."""
    with invariant() as one:
        yield one


def invariant(prefix_cache: bool = True) -> LLM:
    with ops.using(backend="auto"):
        return LLM(batch_invariant=True, threads=1, prefix_cache=prefix_cache, snapshot_every=256)


def ids_of(llm: LLM, count: int) -> list[int]:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(TEXT * 4, bos=True)[:count]
    assert len(ids) == count
    return ids


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


def assert_same(ours: Seen, theirs: Seen) -> None:
    """The same but for what the cache had."""
    assert ours._replace(layers=(), num_blocks=0, hit_tokens=0) == theirs._replace(
        layers=(), num_blocks=0, hit_tokens=0
    )
    for our, their in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(our.window, their.window) and our.sink == their.sink
        assert torch.equal(our.experts, their.experts) and torch.equal(our.weights, their.weights)
        assert (our.entries is None) == (their.entries is None)
        for a, b in zip(our.entries or (), their.entries or (), strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_requests_that_run_keep_their_tokens(llm: LLM) -> None:
    expected = [completion.tokens for completion in llm.generate(PROMPTS, SAMPLING)]
    ids = ids_of(llm, 600)
    alone = look(llm, ids, 590)
    looked, found = threading.Event(), []

    def answer() -> None:
        while not looked.is_set():
            found.append([completion.tokens for completion in llm.generate(PROMPTS, SAMPLING)])

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        for _ in range(3):
            assert_same(look(llm, ids, 590), alone)
    finally:
        looked.set()
        thread.join()
    assert found and found == [expected] * len(found)


def test_what_is_cached_is_not_read_again(llm: LLM) -> None:
    ids = ids_of(llm, 700)
    with invariant(prefix_cache=False) as plain:
        expected = look(plain, ids, 660)
    assert expected.hit_tokens == 0
    llm.generate([ids], Sampling(max_tokens=1, temperature=0))
    read_tokens: list[int] = []
    seen = look(llm, ids, 660, lambda done, of: read_tokens.append(done))
    assert seen.hit_tokens == read_tokens[0] == 512
    assert read_tokens == sorted(read_tokens) and read_tokens[-1] == 661
    assert_same(seen, expected)
    assert seen.num_blocks == expected.num_blocks == 6
    behind = look(llm, ids, 550)  # the module reads what is not cached alone: 39 tokens
    assert behind.hit_tokens == 512 and behind.guess is not None
    assert look(llm, ids, 540).hit_tokens < 512  # fewer than it should read


def test_a_look_leaves_the_cache_as_it_was(llm: LLM) -> None:
    ids = ids_of(llm, 700)
    llm.generate([ids], Sampling(max_tokens=1, temperature=0))
    runner = llm.runner
    assert runner is not None and runner._pool is not None
    before = list(runner._pool.blocks.references), runner._pool.storage.clone()
    look(llm, ids, 660)
    assert before[0] == runner._pool.blocks.references
    assert torch.equal(before[1], runner._pool.storage)
    runner._pool.check_integrity()


def test_streamed_experts_give_the_same_record() -> None:
    with ops.using(backend="auto", threads=1):
        resident, streamed = load(DEFAULT_MODEL), load(DEFAULT_MODEL, num_slots=3)
        ids = list(range(100, 500))
        ours, theirs = look_at(streamed, ids, 390), look_at(resident, ids, 390)
    assert ours.guess is not None and theirs.guess is not None
    assert ours.guess.probability == pytest.approx(theirs.guess.probability, abs=0.01)  # not the kernels' one call
    assert_same(ours._replace(guess=None), theirs._replace(guess=None))


def test_mtp_guesses_as_over_the_whole_text(llm: LLM) -> None:
    """The window of the module alone is run, from another first position: the same guess but for rounding."""
    ids = ids_of(llm, 160)
    with torch.no_grad():
        rows = llm.model.mtp_logits(torch.tensor(ids)[None])[0].double().softmax(-1)
    for position in (0, 40, 157, 158):
        guess = look(llm, ids, position).guess
        assert guess is not None
        probability = float(rows[position, guess.token])
        assert guess.probability == pytest.approx(probability, abs=0.02)
        assert probability > float(rows[position].max()) - 0.02
        assert guess.accepted == (ids[position + 2] == guess.token if position < 158 else None)
    last = look(llm, ids, 159)
    assert last.guess is not None and last.guess.accepted is None and last.next_probability is None


def test_a_model_without_mtp_has_no_guess() -> None:
    model = load(DEFAULT_MODEL)
    model.drop_mtp()
    assert look_at(model, [0, 5, 6], 2).guess is None


def test_a_closed_llm_and_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(threads=1) as closed:
        pass
    with pytest.raises(ValueError, match="is closed"):
        inside_answer(closed, {"ids": [0]})
    model = load(DEFAULT_MODEL)
    over_ranks = Runner(model, 4, leader=object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="several processes"):
        look_at(model, [0, 1], 0, runner=over_ranks)


def test_nan_is_an_error() -> None:
    model = load(DEFAULT_MODEL)
    model.norm.weight.data = torch.full_like(model.norm.weight, torch.nan)
    with pytest.raises(ValueError, match="logits at position 1 are NaN"):
        look_at(model, [0, 5, 6], 1)


def test_an_error_in_the_pass_is_the_callers(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go on: the turn is given back."""

    def failing(*arguments: object) -> None:
        raise RuntimeError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(read, "RowWatcher", failing)
        with pytest.raises(RuntimeError, match="on purpose"):
            look(llm, [0, 5, 6], 1)
    assert llm.generate(["def"], Sampling(max_tokens=2, temperature=0))[0].tokens
    assert look(llm, [0, 5, 6], 1).top


def test_who_is_told_of_progress_may_end_the_look(llm: LLM) -> None:
    def leave(done: int, of: int) -> None:
        raise TimeoutError("the client has left")

    with pytest.raises(TimeoutError):
        inside_answer(llm, {"ids": [0, 5, 6]}, leave)
    assert llm.generate(["def"], Sampling(max_tokens=2, temperature=0))[0].tokens


def test_the_answer_is_json(llm: LLM) -> None:
    answer = inside_answer(llm, {"text": "def main():\n    pass", "position": 3})
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert [layer["kind"] for layer in answer["layers"]] == ["window", "csa", "hca", "csa"]  # type: ignore[attr-defined]
