"""Requests that are answered together have the tokens of requests that are answered alone; wrong runners are seen."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine import mixes
from wavefold import PoolFull, load, ops
from wavefold.chat import Prompt
from wavefold.engine import Answer, Sampling
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.prefixes import Keeping
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.engine.runner import Runner
from wavefold.locate import default_model
from wavefold.model import Transformer
from wavefold.ops import Runtime, native

choosing = import_module("wavefold.engine.choosing")
needs_kernels = pytest.mark.skipif(not native.available(), reason="no CPU kernels, which alone are batch-invariant")


@pytest.fixture(scope="module")
def invariant() -> Transformer:
    return mixes.invariant_model()


@needs_kernels
def test_mixes_give_the_tokens_of_requests_alone(invariant: Transformer) -> None:
    counts = mixes.run(invariant, 60, seed=1)
    assert counts["preemptions"] > 10 and counts["drafts"] > 15 and counts["mtp"] > 10, counts
    assert counts["aborted"] > 2, counts
    assert counts["tokens"] > 1500


class Keeps(Runner):
    """With a prefix cache."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments, keeping=Keeping(20, 128))


@needs_kernels
def test_mixes_with_a_prefix_cache(invariant: Transformer) -> None:
    """What is preempted goes on where it was, with drafts or without, in a pool of a few blocks."""
    counts = mixes.run(invariant, 60, seed=4, kind=Keeps)
    assert counts["preemptions"] > 10 and counts["mtp"] > 10 and counts["cached"] > 500, counts


def test_greedy_mixes_in_float32() -> None:
    """Plain torch is not batch-invariant; its last bits do not decide which token is the most likely here."""
    counts = mixes.run(mixes.exact_model(), 5, seed=2, greedy=True)
    assert counts["tokens"] > 50


@needs_kernels
def test_the_model_that_ships() -> None:
    """Four prompts together in chunks, two of them sampled, with look-up drafts; and one by one."""
    model = load(default_model())
    model.runtime = Runtime(threads=1, batch_invariant=True)
    prompts = [[0, *range(300, 300 + length)] for length in (3, 40, 150, 9)]
    requests = []
    for number, prompt in enumerate(prompts):
        sampling = Sampling(temperature=0 if number % 2 else 0.8, seed=number, top_p=0.95)
        answer = Answer(Prompt(prompt), sampling.resolved(GenerationDefaults(), model.config))
        requests.append(Request(number, prompt, 24, sampling=answer))
    runner = Runner(model, 8, step_tokens=64 + 16 * 3, draft_depth=3, max_running=16, chunk_tokens=40)
    for request in requests:
        runner.add(request)
    while not runner.idle:
        runner.step()
    for request in requests:
        assert answer_of(request).tokens == mixes.alone(model, request)


class ForgetsToClose(Runner):
    """It closes what has ended, and not what is preempted."""

    def _close(self, requests: Iterable[Request]) -> None:
        closed = list(requests)
        super()._close([request for request in closed if request.state == "finished"])
        for request in closed:
            self._sequences.pop(request, None)


@needs_kernels
def test_a_runner_that_forgets_to_close_is_caught(invariant: Transformer) -> None:
    """By its sequence, which is too long when the request comes again, or by blocks that the pool lacks."""
    with pytest.raises((AssertionError, PoolFull), match=r"not as the scheduler counts|blocks are kept|blocks free"):
        mixes.run(invariant, 60, seed=1, kind=ForgetsToClose)


@needs_kernels
def test_a_shared_random_stream_is_caught(invariant: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)

    def shared(seeds: Tensor, positions: Tensor, index: Tensor) -> Tensor:
        return torch.rand(len(seeds), dtype=torch.float64, generator=generator)

    monkeypatch.setattr(ops, "kernels_choose", lambda logits: False)
    monkeypatch.setattr(choosing, "uniform", shared)
    with pytest.raises(AssertionError, match="alone"):
        mixes.run(invariant, 5, seed=1)


@needs_kernels
def test_drafts_that_are_taken_unverified_are_caught(
    invariant: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    verdict = import_module("wavefold.engine.verdict")

    def credulous(drafts: list[int], chosen: list[int]) -> tuple[list[int], str]:
        return [*drafts, chosen[-1]] if chosen else [], ""

    monkeypatch.setattr(verdict, "_accepted", credulous)
    with pytest.raises(AssertionError, match="alone"):
        mixes.run(invariant, 20, seed=1)


@needs_kernels
def test_any_thread_may_step(invariant: Transformer) -> None:
    """Four threads step one runner: the answers are those of one."""
    mix = mixes.Mix(invariant, 3)
    requests = [mix._request() for _ in range(5)]
    runner = Runner(invariant, 16)
    for request in requests:
        runner.add(request)

    def work() -> None:
        while not runner.idle:
            runner.step()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for request in requests:
        assert answer_of(request).tokens == mixes.alone(invariant, request)
