"""The bridge from the engine to an event loop: every request's tokens, in order, and an end for each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wavefold import LLM, Sampling
from wavefold.server.engine import Engine, QueueFull, Stopped
from wavefold.server.news import News, Reader


def to_the_end(max_tokens: int, **fields: Any) -> Sampling:
    """The answer does not end before."""
    return Sampling(max_tokens, logit_bias={1: -100}, **fields)


LONG = to_the_end(60, seed=1)


def run(llm: LLM, work: Callable[[Engine], Awaitable[Any]], max_queue: int = 8) -> Any:
    """Runs `work` with an engine in a new event loop."""

    async def main() -> Any:
        engine = Engine(llm, max_queue)
        try:
            return await asyncio.wait_for(work(engine), 60)
        finally:
            await engine.stop()

    result = asyncio.run(main())
    assert llm.runner.idle
    return result


def submit(engine: Engine, prompt: str | list[int], sampling: Sampling = LONG) -> Reader:
    [request] = engine.llm.requests.of(prompt, sampling)
    return engine.submit(request)[0]


async def read(reader: Reader) -> News:
    """All news of a request in one."""
    news = News()
    while news.ended is None:
        news.merge(await reader.news())
    return news


def test_answers_are_those_of_generate() -> None:
    """Tokens, log probabilities, reasons and usage; with `batch_invariant` to the bit."""
    prompts = ["def f", "a, b" * 100, [5, 6, 7], "b", [3] * 129, "import", "x"]
    samplings = [to_the_end(5 + 7 * number, seed=number, logprobs=number % 3) for number in range(len(prompts))]
    with LLM(width=4, threads=1, batch_invariant=True) as llm:
        expected = llm.generate(prompts, samplings)

        async def work(engine: Engine) -> list[News]:
            return await asyncio.gather(*(read(submit(engine, *pair)) for pair in zip(prompts, samplings, strict=True)))

        for news, completion in zip(run(llm, work), expected, strict=True):
            assert (tuple(news.ids), tuple(news.logprobs)) == (completion.tokens, completion.logprobs)
            assert news.ended is not None and news.begun is not None
            assert news.ended.reason == completion.finish_reason
            assert news.ended.usage.completion_tokens == len(news.ids)
            assert news.begun.prompt_tokens == completion.usage.prompt_tokens
            assert 0 <= news.ended.queue_s <= news.ended.first_s <= news.ended.total_s


def test_progress_of_a_prompt_is_told_step_by_step(llm: LLM) -> None:
    async def work(engine: Engine) -> list[int]:
        decoding = submit(engine, "a", to_the_end(200))  # beside it a prompt is read in chunks of 256
        await decoding.news()
        reader, seen = submit(engine, [7] * 1000), []
        while not (news := await reader.news()).ids:
            seen += [] if news.read is None else [news.read]
        return seen

    seen = run(llm, work)
    assert len(seen) >= 3 and seen == sorted(set(seen)) and seen[-1] < 1000


def test_a_closed_reader_ends_its_request_and_its_prompt_stays_cached(llm: LLM) -> None:
    async def work(engine: Engine) -> int:
        reader = submit(engine, [9, 8] * 300, to_the_end(2000))
        while not (await reader.news()).ids:
            pass
        reader.close()
        assert engine.num_open == 0
        news = await reader.news(10)
        while news.ended is None:
            news = await reader.news(10)
        assert news.ended.reason == "interrupted" and news.ended.usage.completion_tokens < 1000
        again = await read(submit(engine, [9, 8] * 300, to_the_end(1)))
        assert again.begun is not None
        return again.begun.cached_tokens

    assert run(llm, work) >= 512


def test_the_queue_is_bounded_and_in_order(llm: LLM) -> None:
    async def work(engine: Engine) -> list[int]:
        ended: list[int] = []

        async def one(number: int) -> None:
            await read(readers[number])
            ended.append(number)

        readers = [submit(engine, "a", to_the_end(30)) for _ in range(4 + 8)]
        with pytest.raises(QueueFull, match="requests run or wait, as many as may; try again in") as full:
            submit(engine, "a")
        assert full.value.retry_after >= 1
        with pytest.raises(ValueError, match=r"13 answers to one request are not allowed.*expected 12 at most"):
            engine.submit(*engine.llm.requests.of("a", to_the_end(1, n=13)))  # they would never have a place
        await asyncio.gather(*(one(number) for number in range(12)))
        assert engine.num_open == engine.num_waiting == 0
        await read(submit(engine, "a"))  # there is room again
        return ended

    ended = run(llm, work)
    assert sorted(ended) == list(range(12)) and set(ended[:4]) == {0, 1, 2, 3}


def test_a_waiting_request_may_leave(llm: LLM) -> None:
    async def work(engine: Engine) -> None:
        readers = [submit(engine, "a", to_the_end(100)) for _ in range(12)]
        readers[-1].close()
        news = await readers[-1].news()
        assert news.ended is not None and news.ended.reason == "interrupted" and news.ended.queue_s is None
        assert all([(await read(reader)).ended.reason == "length" for reader in readers[:-1]])  # type: ignore[union-attr]

    run(llm, work)


def test_what_never_fits_is_refused_by_name(llm: LLM) -> None:
    async def work(engine: Engine) -> None:
        refused = await read(submit(engine, "a", to_the_end(5000)))
        assert refused.ended is not None and refused.ended.reason == "refused"
        assert "max_tokens = 5000 need 40 blocks of 128 tokens, and the pool has 32" in refused.ended.error
        assert (await read(submit(engine, "a", to_the_end(3)))).ids

    run(llm, work)


def test_a_larger_pool_comes_when_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests behind the one that needs it wait with it, and all are answered."""
    monkeypatch.setattr("wavefold.engine.room.DEFAULT_POOL_TOKENS", 1024)
    with LLM(width=4, threads=1) as llm:
        assert llm.runner.num_blocks == 8

        async def work(engine: Engine) -> list[str]:
            samplings = [to_the_end(50), to_the_end(1500), to_the_end(3), to_the_end(4)]
            news = await asyncio.gather(*(read(submit(engine, "a", sampling)) for sampling in samplings))
            return [one.ended.reason for one in news]  # type: ignore[union-attr]

        assert run(llm, work) == ["length"] * 4
        assert llm.runner.num_blocks >= 12


def test_an_error_of_a_step_ends_requests_with_an_error(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one more try. The next request is answered."""

    async def work(engine: Engine) -> None:
        runner, step, calls = llm.runner, llm.runner.step, []

        def failing(*args: object) -> object:
            calls.append(1)
            raise RuntimeError("the disk is gone")

        monkeypatch.setattr(runner, "step", failing)
        news = await read(submit(engine, "a"))
        assert news.ended is not None and news.ended.reason == "error" and "RuntimeError" in news.ended.error
        assert len(calls) == 2
        monkeypatch.setattr(runner, "step", step)
        assert len((await read(submit(engine, "a", to_the_end(3)))).ids) == 3

    run(llm, work)


def test_a_request_that_cannot_be_begun_ends_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the allocator refuses a larger pool. Others go on, and later ones are answered."""

    async def work(engine: Engine) -> None:
        running = submit(engine, "a", to_the_end(200))
        await running.news()
        with monkeypatch.context() as patch:
            patch.setattr(llm, "add", _raise)
            ended = (await read(submit(engine, "b"))).ended
        assert ended is not None and (ended.reason, ended.error) == ("error", "MemoryError in the engine")
        assert engine.is_alive and len((await read(submit(engine, "b", to_the_end(3)))).ids) == 3
        assert len((await read(running)).ids) > 100

    run(llm, work)


def test_an_engine_that_fails_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither who runs, nor who waits for a place, nor who came amid the failure."""

    async def work() -> None:
        engine = Engine(llm, 8)
        readers = [submit(engine, "a", to_the_end(3000)) for _ in range(9)]
        await readers[0].news()
        monkeypatch.setattr(llm.runner, "abort", _raise)
        readers[0].close()
        readers.append(submit(engine, "b"))
        for reader in readers[1:]:
            ended = (await read(reader)).ended
            assert ended is not None and (ended.reason, ended.error) == ("error", "MemoryError in the engine")
        assert engine.num_open == 0 and not engine.is_alive
        with pytest.raises(Stopped):
            submit(engine, "a")
        await engine.stop()

    with LLM(width=4, threads=1) as llm:
        asyncio.run(asyncio.wait_for(work(), 60))


def _raise(*args: object) -> object:
    raise MemoryError


def test_stop_ends_what_runs_and_takes_nothing_more(llm: LLM) -> None:
    async def work(engine: Engine) -> None:
        readers = [submit(engine, "a", to_the_end(3000)) for _ in range(9)]
        await readers[0].news()
        stopping = asyncio.ensure_future(engine.stop())
        for reader in readers:
            ended = (await read(reader)).ended
            assert ended is not None and (ended.reason, ended.error) == ("error", "the server is shutting down")
        await stopping
        with pytest.raises(Stopped):
            submit(engine, "a")

    run(llm, work, max_queue=100)


def test_a_request_that_comes_amid_the_last_step_has_an_end(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(engine: Engine) -> None:
        step, is_in, may_end = llm.runner.step, threading.Event(), threading.Event()

        def slow() -> object:
            is_in.set()
            may_end.wait(30)
            return step()

        with monkeypatch.context() as patch:
            patch.setattr(llm.runner, "step", slow)
            first = submit(engine, "a", to_the_end(3000))
            await asyncio.to_thread(is_in.wait, 30)
            second = submit(engine, "b")
            stopping = asyncio.ensure_future(engine.stop())
            await asyncio.sleep(0)
            may_end.set()
            for reader in (first, second):
                ended = (await read(reader)).ended
                assert ended is not None and (ended.reason, ended.error) == ("error", "the server is shutting down")
            await stopping

    run(llm, work)


def test_news_without_any_come_after_the_timeout(llm: LLM) -> None:
    async def work(engine: Engine) -> None:
        readers = [submit(engine, "a", to_the_end(500)) for _ in range(6)]
        assert not await readers[-1].news(0.001)
        for reader in readers:
            reader.close()

    run(llm, work)
