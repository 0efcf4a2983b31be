"""Requests that cannot be run, or that go wrong, beside others on the CPU kernels, which go on as if alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.small import SMALL, small_model
from wavefold import LLM, Sampling, ops
from wavefold.engine.drafting import Drafts
from wavefold.engine.speculation import Acceptance, Speculation
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
CONFIG = SMALL.replace(vocab_size=300, o_lora_rank=128, max_position_embeddings=512)
GOOD: list[str | list[int]] = ["def f", [5, 6, 7, 8], [9] * 140]
SAMPLINGS = [Sampling(20, 0), Sampling(20, 1.0, seed=3), Sampling(20, 0.7, 0.9, seed=4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with an MTP module and a tokenizer of bytes."""
    return small_model(tmp_path_factory.mktemp("bad") / "model", CONFIG)


@pytest.fixture(autouse=True)
def on_the_kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


class Always(Speculation):
    """As many drafts as may be, in every step."""

    def depth(self, *arguments: object) -> int:
        return self.most

    def speed(self, depth: int, rows: int, others: int, acceptance: Acceptance, *arguments: object) -> float:
        return acceptance.rate


def opened(folder: Path, drafts: Drafts | None, monkeypatch: pytest.MonkeyPatch) -> LLM:
    """Whose requests have the bits of requests alone; with `drafts`, three in every step."""
    monkeypatch.setattr("wavefold.engine.drafting.Speculation", Always)
    return LLM(folder, batch_invariant=True, draft_depth=3 if drafts else 0, drafts=drafts)


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([5] * 500, Sampling(14), "500 prompt tokens and max_tokens = 14 are not allowed; .* = 512 together"),
        ([5] * 513, Sampling(), "513 prompt tokens"),
        ("a", Sampling(max_tokens=2**63 - 1), "max_tokens = 9223372036854775807 are not allowed"),
        (
            "a",
            Sampling(logit_bias={300: 1}),
            "logit_bias = {300: 1.0} is not allowed; expected token ids from 0",
        ),
        ("a", Sampling(regex="("), r"regex \( is not allowed"),
        ([300], Sampling(), "token 300 is not allowed; expected 0 to 299"),
        ([2**70], Sampling(), r"prompt = \[1180591620717411303424\] is not allowed; expected a text, or a list of"),
        ([-1], Sampling(), r"prompt = \[-1\] is not allowed"),
        (None, Sampling(), "prompt = None is not allowed"),
    ],
)
def test_what_is_refused_disturbs_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, prompt: str | list[int], sampling: Sampling, message: str
) -> None:
    """Alone, among good ones, and as a stream, while others are half-way."""
    llm = opened(folder, None, monkeypatch)
    expected = [answer.tokens for answer in llm.generate(GOOD, SAMPLINGS)]
    streams = [llm.stream(good, each) for good, each in zip(GOOD, SAMPLINGS, strict=True)]
    next(streams[0])
    for attempt in (
        lambda: llm.generate([prompt], sampling),
        lambda: llm.generate([*GOOD, prompt], [*SAMPLINGS, sampling]),
        lambda: llm.stream(prompt, sampling),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert llm._runner is not None and len(llm._runner._requests) == 3
    assert [stream.finish().tokens for stream in streams] == expected


@pytest.mark.parametrize("drafts", [None, "lookup", "mtp", "both"])
def test_nan_ends_its_request_alone_on_the_kernels(
    folder: Path, monkeypatch: pytest.MonkeyPatch, drafts: Drafts | None
) -> None:
    """A token's embedding is NaN: it is in a prompt, and the first of an answer. It passes through routers, too."""
    llm = opened(folder, drafts, monkeypatch)
    expected = [answer.tokens for answer in llm.generate(GOOD, SAMPLINGS)]
    damaged = next(token for token in range(50, 300) if not any(token in tokens for tokens in (*expected, GOOD[1])))
    weight = llm.model.embed.weight.detach().clone()
    weight[damaged] = torch.nan
    llm.model.embed.weight = torch.nn.Parameter(weight, requires_grad=False)
    assert llm.model.runs_on_kernels
    forced = Sampling(20, 0, logit_bias={damaged: 100})
    prompts = [GOOD[0], [7] * 130 + [damaged, 8], GOOD[1], [11, 12, 13], GOOD[2]]
    answers = llm.generate(prompts, [SAMPLINGS[0], Sampling(20, 0), SAMPLINGS[1], forced, SAMPLINGS[2]])
    for number, tokens in ((1, ()), (3, (damaged,))):
        assert answers[number].finish_reason == "error" and answers[number].tokens == tokens
        assert "the logits are NaN or infinite" in answers[number].error
    assert [answers[number].tokens for number in (0, 2, 4)] == expected
    assert llm._runner is not None and llm._runner.idle
    assert [answer.tokens for answer in llm.generate(GOOD, SAMPLINGS)] == expected
