"""MTP drafts of the engine: those of whole texts, chosen as tokens are; errors in them harm no answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import small
from wavefold import LLM, Pool, Transformer, ops
from wavefold.chat import Prompt
from wavefold.checkpoint import random_model
from wavefold.engine import Answer, Sampling, generate
from wavefold.engine.choosing import Row, next_tokens
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.drafting import Drafter, proposers_of
from wavefold.engine.mtp import MTPDrafts
from wavefold.engine.proposer import Text
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.engine.runner import Runner
from wavefold.engine.speculation import Acceptance, Speculation
from wavefold.ops import Arithmetic

PROMPTS = [3, 1, 4, 1, 5], [9, 2, 6] * 60, [5, 3, 5, 8, 9, 7, 9]


class Depths(Speculation):
    """The depths of a list, again and again; 0 long enough for more than a window of streams to pass by."""

    def __init__(self, depths: Sequence[int]):
        super().__init__(max(depths))
        self._depths, self._at = depths, 0

    def depth(
        self, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float] = lambda depth: 0.0,
        behind_s: float = 0.0,
    ) -> int:  # fmt: skip
        self._at += 1
        return self._depths[self._at % len(self._depths)]

    def is_trial(self, *arguments: object) -> bool:
        return False

    def rest(self, *arguments: object) -> int:
        return 0


class Recorded(MTPDrafts):
    """Remembers the guesses: tokens of the text, guesses, and how the request chooses."""

    def __init__(self, model: Transformer):
        super().__init__(model)
        self.window = model.config.sliding_window
        self.guesses: list[tuple[list[int], list[int], Request]] = []

    def propose(self, texts: Sequence[Text], depths: Sequence[int]) -> list[Sequence[int]]:
        found = super().propose(texts, depths)
        for text, guesses, depth in zip(texts, found, depths, strict=True):
            assert len(guesses) == depth and text.sequence.num_mtp_tokens == text.sequence.num_tokens
            self.guesses.append((list(text.tokens), list(guesses), text.request))
        return found


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = small.SMALL.replace(vocab_size=40, max_position_embeddings=4096)
    return random_model(config, 5, Arithmetic("exact", torch.float32))


@pytest.fixture(autouse=True)
def poisoned(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    new_pool = model.new_pool
    monkeypatch.setattr(
        model, "new_pool", lambda num_tokens, **given: new_pool(num_tokens, **{"poison": True, **given})
    )
    with ops.using(backend="reference"):
        yield


def request_of(model: Transformer, id: int, prompt: Sequence[int], max_tokens: int = 24, **sampling: Any) -> Request:
    resolved = Sampling(**{"temperature": 0, **sampling}).resolved(GenerationDefaults(), model.config)
    return Request(id, prompt, max_tokens, sampling=Answer(Prompt(list(prompt)), resolved))


def answered(model: Transformer, proposer: MTPDrafts, depths: Sequence[int], **sampling: Any) -> list[Request]:
    """Requests that were answered together, in small steps, each with the tokens of the request alone."""
    drafter = Drafter(max(depths), [proposer], Depths(depths))
    runner = Runner(model, 8, 4, 4 * (1 + max(depths)) + 20, max(depths), drafter)
    requests = [request_of(model, number, prompt, **sampling) for number, prompt in enumerate(PROMPTS)]
    for request in requests:
        runner.add(request)
    while not runner.idle:
        runner.step()
    for request in requests:
        settings = answer_of(request).sampling
        expected = list(generate(
            model, list(request.prompt), request.max_tokens, settings.temperature, settings.top_p, settings.seed
        ))  # fmt: skip
        assert answer_of(request).tokens == expected
    return requests


def expected_guesses(model: Transformer, tokens: Sequence[int], depth: int, request: Request) -> list[int]:
    """By the module over whole texts: the second guess and those after it read the module's own streams."""
    answer, prompt = answer_of(request), len(request.prompt)
    text, streams = torch.tensor(tokens), model.streams(torch.tensor(tokens[:-1])[None])[0]
    guesses: list[int] = []
    for _ in range(depth):
        pool = model.new_pool(len(text) + 1, mtp=True, draft_tokens=8)
        sequence = pool.open()
        model.extend(text[:-1], [sequence], [len(text) - 1])
        after = model.new_streams(1)
        count = len(text) - 1
        logits = model.extend_mtp(streams, text[1:], [sequence], [count], [count - 1], after)
        row = Row(answer.sampling, request.prompt, [*tokens[prompt:], *guesses])
        (guess,) = next_tokens(logits, [row], [0])
        assert guess is not None
        guesses.append(guess)
        text, streams = torch.cat((text, torch.tensor([guess]))), torch.cat((streams, after))
    return guesses


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.2, "seed": 7, "top_p": 0.9}], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    "depths",
    [[3, 1, 2], [2, *[0] * 30], *(pytest.param(case, marks=pytest.mark.slow) for case in ([1], [0, 0, 2]))],
    ids=["312", "rare", "1", "002"],
)
def test_drafts_are_those_of_whole_texts(model: Transformer, depths: list[int], sampling: dict[str, Any]) -> None:
    """Whenever they are asked for, beside whatever others, and after steps that rejected some."""
    recorded = Recorded(model)
    answered(model, recorded, depths, **sampling)
    chosen = recorded.guesses[:: max(1, len(recorded.guesses) // 6)]
    assert len(chosen) >= min(6, 72 // len(depths))
    with torch.no_grad():
        for tokens, guesses, request in chosen:
            assert guesses == expected_guesses(model, tokens, len(guesses), request)


def test_streams_of_another_token_are_caught(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: the streams of the row before."""
    extend = model.extend_mtp

    def shifted(streams: Tensor, *given: Any) -> Tensor:
        return extend(streams.roll(1, 0), *given)

    recorded = Recorded(model)
    with monkeypatch.context() as patch:
        patch.setattr(model, "extend_mtp", shifted)
        answered(model, recorded, [2, 3])
    wrong = sum(
        guesses != expected_guesses(model, tokens, len(guesses), request)
        for tokens, guesses, request in recorded.guesses[:8]
    )
    assert wrong > 2


@pytest.mark.parametrize("rows", ["all", "one"])
def test_nan_in_drafts_harms_no_answer(model: Transformer, monkeypatch: pytest.MonkeyPatch, rows: str) -> None:
    extend = model.extend_mtp

    def damaged(*given: Any) -> Tensor:
        logits = extend(*given)
        logits[slice(None) if rows == "all" else slice(1)] = torch.nan
        given[5].fill_(torch.nan)
        return logits

    monkeypatch.setattr(model, "extend_mtp", damaged)
    answered(model, MTPDrafts(model), [2, 3, 0])


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interruption"])
@pytest.mark.parametrize("where", ["extend_mtp", "commit", "next_tokens"])
@pytest.mark.parametrize("which", [1, 4])
def test_a_failure_while_drafting_is_no_failure_of_an_answer(
    model: Transformer, monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str, which: int
) -> None:
    """It is raised; the next step goes on, and drafts are again those of whole texts."""
    owner: Any = {"extend_mtp": model, "commit": Pool}.get(where, import_module("wavefold.engine.mtp"))
    function, calls = getattr(owner, where), 0
    begin_mtp, in_mtp = Pool.begin_mtp, False

    def begun(*given: Any) -> Any:
        nonlocal in_mtp
        in_mtp = True
        return begin_mtp(*given)

    def failing(*given: Any) -> Any:
        nonlocal calls, in_mtp
        if where == "commit" and not in_mtp:
            return function(*given)
        calls, in_mtp = calls + 1, False
        result = function(*given)
        if calls == which:
            raise error
        return result

    monkeypatch.setattr(Pool, "begin_mtp", begun)
    monkeypatch.setattr(owner, where, failing)
    recorded = Recorded(model)
    runner = Runner(model, 8, 4, 60, 3, Drafter(3, [recorded], Depths([2, 3, 1])))
    requests = [request_of(model, number, prompt, 8) for number, prompt in enumerate(PROMPTS)]
    for request in requests:
        runner.add(request)
    raised = 0
    for _ in range(200):
        if runner.idle:
            break
        try:
            runner.step()
        except type(error):
            raised += 1
    assert runner.idle and raised == 1
    monkeypatch.setattr(owner, where, function)
    for request in requests:
        assert answer_of(request).tokens == list(generate(model, list(request.prompt), 8, 0))
    for tokens, guesses, request in recorded.guesses[-2:]:
        assert guesses == expected_guesses(model, tokens, len(guesses), request)


def test_what_a_model_lacks_is_refused(model: Transformer) -> None:
    bare = random_model(model.config.without_mtp(), 5, Arithmetic("exact", torch.float32))
    assert [type(proposer).__name__ for proposer in proposers_of(bare, None)] == ["LookupDrafts"]
    assert [type(proposer).__name__ for proposer in proposers_of(model, None)] == ["LookupDrafts", "MTPDrafts"]
    for drafts in ("mtp", "both"):
        with pytest.raises(ValueError, match=r"without an MTP module .* expected drafts = .lookup"):
            proposers_of(bare, drafts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="drafts = 'eagle' is not allowed; expected one of 'lookup', 'mtp', 'both'"):
        proposers_of(model, "eagle")  # type: ignore[arg-type]


def test_the_shipped_model_drafts_by_mtp() -> None:
    """Greedy code: more tokens than steps, the tokens of an LLM without drafts."""
    prompts = ["def read(path):\n    with open(path) as file:\n"]
    with (
        ops.using(backend="auto"),
        LLM(batch_invariant=True, draft_depth=2, drafts="mtp", threads=1) as llm,
        LLM(batch_invariant=True) as plain,
    ):
        counted = Recorded(llm.model)
        llm._runner = Runner(llm.model, 8, draft_depth=2, drafter=Drafter(2, [counted], Depths([2])))
        found, expected = (each.generate(prompts, Sampling(60, 0)) for each in (llm, plain))
        assert [completion.tokens for completion in found] == [completion.tokens for completion in expected]
        assert len(counted.guesses) < 45
