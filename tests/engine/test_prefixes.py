"""Requests and the prefix cache: who waits for whom, what is run again, what is kept of answers that end early."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cache.conversations import model_of
from tests.cache.many_threads import CONFIG
from tests.engine import mixes
from tests.small import small_model
from wavefold import LLM, Transformer, ops
from wavefold.chat import Prompt
from wavefold.checkpoint.identity import quick_identity
from wavefold.engine import Answer, Sampling
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.drafting import Drafter
from wavefold.engine.mtp import MTPDrafts
from wavefold.engine.prefixes import Keeping
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.engine.runner import Runner
from wavefold.engine.usage import Usage
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="no CPU kernels, which alone are batch-invariant")
TOKENS = [int(token) for token in torch.randint(0, 40, (900,), generator=torch.Generator().manual_seed(3))]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return model_of("released")


def runner_of(model: Transformer, num_blocks: int = 30, every: int = 256, **more: Any) -> Runner:
    return Runner(model, num_blocks, keeping=Keeping(50, every), **more)


def request_of(model: Transformer, id: object, prompt: list[int], max_tokens: int = 6, **more: Any) -> Request:
    scored_from, index = more.pop("scored_from", 1), more.pop("index", 0)
    resolved = Sampling(**{"temperature": 0, **more}).resolved(GenerationDefaults(), model.config)
    answer = Answer(Prompt(prompt), resolved, scored_from=scored_from, index=index)
    return Request(id, prompt, max_tokens, sampling=answer)  # type: ignore[arg-type]


def finish(runner: Runner, *requests: Request) -> list[Usage]:
    for request in requests:
        runner.add(request)
    while not runner.idle:
        runner.step()
    return [answer_of(request).usage for request in requests]


def known(usage: Usage) -> tuple[int, int, int]:
    return usage.cached_tokens, usage.computed_tokens, usage.left_chain_at


def check_alone(model: Transformer, *requests: Request) -> None:
    for request in requests:
        assert answer_of(request).tokens == mixes.alone(model, request)


def test_the_next_turn_goes_on_at_the_end_of_the_answer(model: Transformer) -> None:
    runner = runner_of(model)
    first = request_of(model, 1, TOKENS[:300], 40)
    assert [known(usage) for usage in finish(runner, first)] == [(0, 300, 0)]
    text = [*TOKENS[:300], *answer_of(first).tokens]
    second = request_of(model, 2, [*text, *TOKENS[400:450]])
    assert [known(usage) for usage in finish(runner, second)] == [(339, 51, 339)], "the last token was not run"
    edited = request_of(model, 3, [*TOKENS[:270], 1, *TOKENS[271:320]])
    assert TOKENS[270] != 1
    assert [known(usage) for usage in finish(runner, edited)] == [(256, 64, 270)], "from the state before the edit"
    check_alone(model, first, second, edited)


def test_several_answers_read_their_prompt_once(model: Transformer) -> None:
    runner = runner_of(model)
    requests = [request_of(model, n, TOKENS[:500], 5, temperature=1.0, index=n, seed=n) for n in range(4)]
    assert [known(usage)[:2] for usage in finish(runner, *requests)] == [(0, 500), (499, 1), (499, 1), (499, 1)]
    check_alone(model, *requests[:1])
    cold = Runner(model, 30)
    again = [request_of(model, n, TOKENS[:500], 5, temperature=1.0, index=n, seed=n) for n in range(4)]
    finish(cold, *again)
    assert [answer_of(one).tokens for one in requests] == [answer_of(one).tokens for one in again]


def test_a_system_text_is_read_once_for_those_that_come_together(model: Transformer) -> None:
    """They part between two states: the first one, for whom the others wait, leaves a state where they do."""
    runner = runner_of(model, every=512)
    system = TOKENS[:700]
    requests = [request_of(model, n, [*system, n, *TOKENS[n : n + 40]]) for n in range(3)]
    assert [known(usage)[:2] for usage in finish(runner, *requests)] == [(0, 741), (640, 101), (640, 101)]
    check_alone(model, *requests)


def test_where_texts_part_a_state_is_left_for_the_third(model: Transformer) -> None:
    runner = runner_of(model, every=512)
    requests = [request_of(model, n, [*TOKENS[:700], n, *TOKENS[n : n + 40]]) for n in range(3)]
    found = [known(finish(runner, request)[0]) for request in requests]
    assert found == [(0, 741, 0), (512, 229, 700), (640, 101, 700)]
    check_alone(model, *requests)


def test_prompts_without_a_common_beginning_wait_for_nobody(model: Transformer) -> None:
    runner = runner_of(model, step_tokens=100)
    requests = [request_of(model, n, [n, *TOKENS[:80]]) for n in range(2)]
    for request in requests:
        runner.add(request)
    runner.step()
    assert [request.num_cached for request in requests] == [81, 19]
    finish(runner)
    check_alone(model, *requests)


def test_a_cancelled_prompt_is_not_read_again(model: Transformer) -> None:
    """Its client left, and comes again."""
    runner = runner_of(model, step_tokens=100, every=4096)
    left = request_of(model, 1, TOKENS[:500])
    runner.add(left)
    for _ in range(3):
        runner.step()
    runner.abort(1)
    again = request_of(model, 2, TOKENS[:500])
    assert [known(usage) for usage in finish(runner, again)] == [(300, 200, 300)]
    check_alone(model, again)


def test_a_preempted_request_goes_on_where_it_was(model: Transformer) -> None:
    """As far as its blocks are not needed by those that run."""
    runner = runner_of(model, num_blocks=9)
    requests = [request_of(model, n, TOKENS[100 * n : 100 * n + 250], 60) for n in range(4)]
    finish(runner, *requests)
    assert sum(request.num_preemptions for request in requests) > 0
    assert [known(answer_of(request).usage)[0] for request in requests] == [0] * 4, "of the first time"
    check_alone(model, *requests)


@pytest.mark.parametrize(("scored_from", "cached"), [(1, 0), (260, 259), (400, 399), (499, 498)])
def test_log_probabilities_of_a_prompt_are_computed(model: Transformer, scored_from: int, cached: int) -> None:
    runner, cold = runner_of(model), Runner(model, 30)
    sequence = request_of(model, 0, TOKENS[:500], 2)
    finish(runner, sequence)
    finish(runner, request_of(model, 5, TOKENS[:260], 2), request_of(model, 6, TOKENS[:400], 2))
    ours, expected = (
        request_of(model, 1, TOKENS[:500], 2, prompt_logprobs=0, scored_from=scored_from) for _ in range(2)
    )
    assert known(finish(runner, ours)[0])[0] <= cached
    finish(cold, expected)
    assert answer_of(ours).prompt_logprobs == answer_of(expected).prompt_logprobs
    assert len(answer_of(ours).prompt_logprobs) == 500 - scored_from


def test_drafts_by_mtp_go_on(model: Transformer) -> None:
    """A resumed sequence has no streams of its past: the module begins anew, and no token changes."""
    drafter = Drafter(3, [MTPDrafts(model)], mixes.Dice(3, mixes.Random(1)))
    runner = Runner(model, 30, draft_depth=3, drafter=drafter, keeping=Keeping(50, 128))
    text = TOKENS[:200]
    for number in range(6):
        request = request_of(model, number, text, 50)
        finish(runner, request)
        check_alone(model, request)
        assert number == 0 or known(answer_of(request).usage)[0] >= len(text) - 12
        text = [*text, *answer_of(request).tokens, number]


@pytest.mark.parametrize(("scored", "cached"), [({}, 200), ({"prompt_logprobs": 0}, 0)])
def test_nothing_is_kept_of_a_prompt_whose_logits_are_nan(
    model: Transformer, monkeypatch: pytest.MonkeyPatch, scored: dict[str, int], cached: int
) -> None:
    """Whatever the reason was: the next one is computed. What was cached before it stays.

    A prompt that is scored fails at its first piece, and has computed all of its tokens.
    """
    runner = runner_of(model, every=128, step_tokens=256)
    finish(runner, request_of(model, 1, TOKENS[:200]))
    run_step = model.forward_step

    def broken(*arguments: Any) -> Tensor:
        logits = run_step(*arguments)
        return torch.full_like(logits, torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward_step", broken)
        failed = request_of(model, 2, TOKENS[:500], **scored)
        finish(runner, failed)
    assert answer_of(failed).finish_reason == "error"
    again = request_of(model, 3, TOKENS[:500])
    assert known(finish(runner, again)[0])[0] == cached
    check_alone(model, again)


def test_an_error_between_two_counts_leaves_nothing(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of(model)
    finish(runner, request_of(model, 1, TOKENS[:200]))
    runner.add(request_of(model, 2, TOKENS[:300]))

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Answer, "spent", interrupted)
        runner.step()
    assert runner.idle and runner._pool is not None and runner._pool.blocks.num_free == 30
    again = request_of(model, 3, TOKENS[:300])
    assert known(finish(runner, again)[0]) == (0, 300, 0)
    check_alone(model, again)


def test_a_pool_that_grows_keeps_what_is_cached(model: Transformer) -> None:
    runner = runner_of(model, num_blocks=4)
    finish(runner, request_of(model, 1, TOKENS[:300]))
    runner.grow(9)
    again = request_of(model, 2, TOKENS[:800])
    assert known(finish(runner, again)[0])[0] == 300
    check_alone(model, again)
    assert runner._pool is not None
    runner._pool.check_integrity()


@pytest.fixture
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("memory", [None, "2G"])
def test_an_llm_goes_on_after_a_restart(tmp_path: Path, memory: str | None) -> None:
    folder = small_model(tmp_path / "model", CONFIG)
    prompt = "a long system text. " * 30
    settings: dict[str, Any] = {"batch_invariant": True, "memory": memory, "cache_dir": tmp_path / "kept"}
    greedy = Sampling(20, 0)
    with LLM(folder, batch_invariant=True, prefix_cache=False) as llm:
        expected = [llm.generate([prompt + more], greedy)[0] for more in ("one", "two")]
        assert [answer.usage.cached_tokens for answer in expected] == [0, 0]
    with LLM(folder, snapshot_every=256, **settings) as llm:
        first = llm.generate([prompt + "one"], greedy)[0]
        assert first.tokens == expected[0].tokens and first.usage.disk_tokens == 0
    with LLM(folder, snapshot_every=256, **settings) as llm:
        second = llm.generate([prompt + "two"], greedy)[0]
        assert second.tokens == expected[1].tokens
        assert (second.usage.disk_tokens, second.usage.cached_tokens) == (512, 0)
        assert second.usage.prefix_line == "0 in memory, 512 on disk, 92 computed, known up to 512"
        third = llm.generate([prompt + "one"], greedy)[0]
        assert third.tokens == expected[0].tokens and third.usage.cached_tokens == 601
    with LLM(folder, "exact", snapshot_every=256, cache_dir=tmp_path / "kept") as llm:
        assert llm.generate([prompt + "two"], greedy)[0].usage.left_chain_at == 0, "another arithmetic"


def test_what_llm_refuses(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model")
    for settings, message in (
        ({"snapshot_every": 200}, "snapshot_every = 200 is not allowed; expected a multiple of 128"),
        ({"cache_dir": tmp_path, "prefix_cache": False}, "cache_dir = .* with prefix_cache = False"),
        ({"cache_dir": tmp_path, "disk_cache": "much"}, "disk_cache = 'much' is not allowed"),
    ):
        with pytest.raises(ValueError, match=message):
            LLM(folder, **settings)  # type: ignore[arg-type]


def test_the_identity_of_weights(tmp_path: Path) -> None:
    """Other weights and weights that were changed in place have another one; reading changes nothing."""
    first, second = small_model(tmp_path / "first"), small_model(tmp_path / "second", seed=5)
    identity = quick_identity(first)
    assert identity == quick_identity(first) != quick_identity(second)
    path = next(first.glob("*.safetensors"))
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert quick_identity(first) != identity, "the time of the entry cannot be put back"
