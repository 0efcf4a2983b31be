"""The runner: what one request does wrong disturbs no other, and whatever happens all blocks come back."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from wavefold import Pool, Transformer
from wavefold.chat import Prompt
from wavefold.engine import Answer, Sampling, generate
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.logprobs import logprobs
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.engine.runner import Runner

runner_module = import_module("wavefold.engine.runner")
PROMPTS = [3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9]
Counted = list[Pool]


@pytest.fixture
def pools(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """The pools that runners open; at the end no sequence may be left in one."""
    opened: Counted = []
    new_pool = model.new_pool

    def watched(num_tokens: int, **arguments: Any) -> Pool:
        opened.append(new_pool(num_tokens, poison=True, **arguments))
        return opened[-1]

    monkeypatch.setattr(model, "new_pool", watched)
    yield opened
    for pool in opened:
        pool.check_integrity()
        assert pool.sequences == [] and pool.blocks.num_free == pool.blocks.num_blocks


def request_of(model: Transformer, id: int, prompt: list[int], max_tokens: int = 6, **sampling: Any) -> Request:
    resolved = Sampling(**{"temperature": 0, **sampling}).resolved(GenerationDefaults(), model.config)
    return Request(id, prompt, max_tokens, sampling=Answer(Prompt(prompt), resolved))


def three(model: Transformer) -> list[Request]:
    return [request_of(model, number, prompt) for number, prompt in enumerate(PROMPTS)]


def finish(runner: Runner) -> None:
    for _ in range(200):
        if runner.idle:
            return
        runner.step()
    raise AssertionError("a request never ends")


def check_alone(model: Transformer, requests: list[Request]) -> None:
    """In float32 the most likely token does not depend on the batch."""
    for request in requests:
        expected = list(generate(model, list(request.prompt), request.max_tokens, 0))
        assert answer_of(request).tokens == expected and answer_of(request).finish_reason == "length"


def test_outputs_are_the_tokens(model: Transformer, pools: Counted) -> None:
    runner, requests = Runner(model, 8), three(model)
    assert [runner.add(request) for request in requests] == [0, 1, 2]
    first = runner.step()
    assert [(output.request.id, len(output.tokens), output.finish_reason) for output in first] == [
        (0, 1, None), (1, 1, None), (2, 1, None),
    ]  # fmt: skip
    finish(runner)
    assert len(pools) == 1 and runner.step() == []
    check_alone(model, requests)
    usage = answer_of(requests[0]).usage
    layout = pools[0].layout
    assert (usage.prompt_tokens, usage.decode_tokens) == (5, 5) and usage.prefill_s > 0 < usage.decode_s
    assert usage.cache_bytes == layout.block_bytes + layout.state_bytes


def poison(model: Transformer, monkeypatch: pytest.MonkeyPatch, token: int) -> None:
    """Wherever `token` is read, its own embedding, and with it all that depends on it, is NaN."""
    embed = model.embed.forward

    def forward(tokens: Tensor, arithmetic: object) -> Tensor:
        rows = embed(tokens, arithmetic)  # type: ignore[arg-type]
        return torch.where((tokens == token)[:, None], torch.nan, rows)

    monkeypatch.setattr(model.embed, "forward", forward)


@pytest.mark.parametrize("prompt_logprobs", [None, 1])
@pytest.mark.parametrize("step_tokens", [17, 1024])
def test_nan_ends_its_request_alone(
    model: Transformer, pools: Counted, monkeypatch: pytest.MonkeyPatch, step_tokens: int, prompt_logprobs: int | None
) -> None:
    requests = three(model)
    expected = [list(generate(model, list(request.prompt), 6, 0)) for request in requests]
    assert all(39 not in [*request.prompt, *tokens] for request, tokens in zip(requests, expected, strict=True))
    damaged = request_of(model, 9, [1, 39, *[2] * 30], 6, prompt_logprobs=prompt_logprobs)
    poison(model, monkeypatch, 39)
    runner = Runner(model, 8, step_tokens=step_tokens)
    for request in (requests[0], damaged, *requests[1:]):
        runner.add(request)
    finish(runner)
    assert [answer_of(request).tokens for request in requests] == expected
    completion = answer_of(damaged).completion
    assert completion.finish_reason == "error" and "the logits are NaN or infinite" in completion.error
    assert completion.tokens == ()


def test_logits_without_an_allowed_token_end_their_request_alone(model: Transformer, pools: Counted) -> None:
    """The tokenizer has an id that the model lacks, and no other may come first."""
    requests = three(model)
    resolved = Sampling(temperature=0).resolved(GenerationDefaults(), model.config)
    stuck = Request(9, [1, 2], 5, sampling=Answer(Prompt([1, 2], b"x", (41,)), resolved))
    runner = Runner(model, 8)
    for request in (stuck, *requests):
        runner.add(request)
    finish(runner)
    check_alone(model, requests)
    assert answer_of(stuck).finish_reason == "error"


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "message"),
    [
        ([1] * 4000, 200, "4000 prompt tokens and max_tokens = 200 are not allowed; .* = 4096 together"),
        ([1] * 1020, 20, "need 9 blocks of 128 tokens, and the pool has 8"),
        ([], 5, "the prompt has no tokens"),
        ([1, 40], 5, "token 40 is not allowed; expected 0 to 39"),
        ([1], 0, "max_tokens = 0 is not allowed"),
    ],
)
def test_refusals_leave_the_others_as_they_are(
    model: Transformer, pools: Counted, prompt: list[int], max_tokens: int, message: str
) -> None:
    runner, requests = Runner(model, 8), three(model)
    with pytest.raises(ValueError, match=message):
        runner.add(request_of(model, 7, prompt, max_tokens))
    assert runner.idle and pools == []
    for request in requests:
        runner.add(request)
    runner.step()
    with pytest.raises(ValueError, match=message):
        runner.add(request_of(model, 8, prompt, max_tokens))
    with pytest.raises(ValueError, match="a request with id 1 waits or runs already"):
        runner.add(request_of(model, 1, [5], 2))
    finish(runner)
    check_alone(model, requests)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["run_blocks", "commit", "verdicts"])
@pytest.mark.parametrize("which", [1, 2, 4])
def test_a_pass_that_fails_is_tried_again(
    model: Transformer, pools: Counted, monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str, which: int
) -> None:
    """Before its rows are in the cache, and after: the next step goes on as if nothing had been."""
    calls = 0

    def failing(function: Any, after: bool) -> Any:
        def run(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if after:
                result = function(*arguments)
            if calls == which:
                raise error
            return result if after else function(*arguments)

        return run

    if where == "run_blocks":
        monkeypatch.setattr(model, "run_blocks", failing(model.run_blocks, False))
    elif where == "commit":
        monkeypatch.setattr(Pool, "commit", failing(Pool.commit, True))
    else:
        monkeypatch.setattr(runner_module, "verdicts", failing(runner_module.verdicts, False))
    runner, requests = Runner(model, 8, step_tokens=20, max_running=4), three(model)
    for request in requests:
        runner.add(request)
    with pytest.raises(type(error)):
        finish(runner)
    pools[0].check_integrity()
    finish(runner)
    monkeypatch.undo()
    check_alone(model, requests)


def interrupt_a_step(runner: Runner, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Runs a step in which calls of these functions are interrupted."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in names:
            patch.setattr(f"wavefold.engine.{name}", interrupted)
        runner.step()


def check_works(model: Transformer, runner: Runner, request: Request) -> None:
    """Nothing is left in the runner, and a new request is answered."""
    assert runner.idle
    runner.add(request)
    finish(runner)
    check_alone(model, [request])


def test_a_failure_between_two_counts_ends_all_with_an_error(
    model: Transformer, pools: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, (*requests, later) = Runner(model, 8), three(model)
    for request in requests:
        runner.add(request)
    runner.step()
    interrupt_a_step(runner, monkeypatch, "answer.Answer.spent")
    assert [answer_of(request).finish_reason for request in requests] == ["error", "error"]
    assert "KeyboardInterrupt while the tokens" in answer_of(requests[0]).error
    check_works(model, runner, later)


def test_an_interruption_while_a_step_is_planned_ends_all_with_an_error(
    model: Transformer, pools: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After requests were taken into the step, so that nobody knows how far the scheduler is."""
    runner, (*requests, later) = Runner(model, 8), three(model)
    for request in requests:
        runner.add(request)
    interrupt_a_step(runner, monkeypatch, "scheduler.PlannedSpan")
    assert "KeyboardInterrupt while a step was planned" in answer_of(requests[1]).error
    check_works(model, runner, later)


def test_an_answer_that_cannot_even_end_leaves_a_runner_that_works(
    model: Transformer, pools: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, (*requests, later) = Runner(model, 8), three(model)
    for request in requests:
        runner.add(request)
    interrupt_a_step(runner, monkeypatch, "answer.Answer.take", "answer.Answer.end")
    check_works(model, runner, later)


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_abort_gives_blocks_back_at_once(model: Transformer, pools: Counted) -> None:
    runner, requests = Runner(model, 8), three(model)
    for request in requests:
        runner.add(request)
    runner.step()
    runner.abort(1)
    assert len(pools[0].sequences) == 2 and pools[0].blocks.num_free == 6
    runner.abort(1), runner.abort("never there")
    finish(runner)
    check_alone(model, [requests[0], requests[2]])
    assert answer_of(requests[1]).completion.finish_reason == "interrupted"
    assert len(answer_of(requests[1]).tokens) == 1


@pytest.mark.parametrize("step_tokens", [17, 1024])
def test_log_probabilities(model: Transformer, pools: Counted, step_tokens: int) -> None:
    """Of the prompt and of the answer, read in pieces: those of one whole pass."""
    prompt = [number * 7 % 40 for number in range(50)]
    request = request_of(model, 0, prompt, 6, logprobs=2, prompt_logprobs=3)
    runner = Runner(model, 8, step_tokens=step_tokens)
    runner.add(request), runner.add(request_of(model, 1, [5, 6], 4))
    finish(runner)
    completion = answer_of(request).completion
    tokens = [*prompt, *completion.tokens]
    with torch.no_grad():
        logits = model(torch.tensor([tokens]))[0, :-1]
    of_prompt, of_answer = logprobs(logits[:49], tokens[1:50], 3), logprobs(logits[49:], tokens[50:], 2)
    assert completion.logprobs is not None and completion.prompt_logprobs is not None
    assert completion.prompt_logprobs[0] is None
    found = [*completion.prompt_logprobs[1:], *completion.logprobs]
    assert len(found) == len(tokens) - 1 == len(of_prompt) + len(of_answer)
    for entry, expected in zip(found, [*of_prompt, *of_answer], strict=True):
        assert entry is not None and (entry.id, entry.rank) == (expected.id, expected.rank)
        assert entry.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [token for token, _ in entry.best] == [token for token, _ in expected.best]


def test_answers_to_one_prompt_differ_by_their_number(model: Transformer, pools: Counted) -> None:
    resolved = Sampling(temperature=1.5, seed=3).resolved(GenerationDefaults(), model.config)
    requests = [
        Request(number, [1, 2], 12, sampling=Answer(Prompt([1, 2]), resolved, index=number)) for number in range(4)
    ]
    runner = Runner(model, 8)
    for request in requests:
        runner.add(request)
    finish(runner)
    answers = [tuple(answer_of(request).tokens) for request in requests]
    assert len(set(answers)) == 4
    assert list(answers[0]) == list(generate(model, [1, 2], 12, 1.5, seed=3))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"draft_depth": 16}, "draft_depth = 16 is not allowed; expected 0 to 15"),
        ({"num_blocks": 0}, "num_blocks = 0 is not allowed"),
        ({"step_tokens": 16}, "step_tokens = 16 is not allowed with max_running = 16"),
    ],
)
def test_numbers_out_of_range(model: Transformer, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Runner(model, **{"num_blocks": 8, **numbers})
