"""`LLM.stream_async`: pieces for an event loop, with a completion, and an end that is never silent."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.small import small_model
from wavefold import LLM, AsyncTextStream, Sampling

LONG = Sampling(60, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("async") / "model")


@pytest.fixture
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder) as llm:
        yield llm


def is_idle(llm: LLM) -> bool:
    return llm._runner is not None and llm._runner.idle


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def test_it_has_a_completion(llm: LLM) -> None:
    [expected] = llm.generate(["def f"], LONG)

    async def read() -> tuple[str, AsyncTextStream]:
        async with llm.stream_async("def f", LONG) as stream:
            assert stream.completion.finish_reason == "interrupted"
            return "".join([piece async for piece in stream]), stream

    text, stream = run(read())
    assert text == expected.text == stream.completion.text
    assert (stream.completion.tokens, stream.completion.finish_reason) == (expected.tokens, "length")
    assert stream.completion.usage.completion_tokens == 60 == len(expected.tokens)
    assert repr(stream) == "<AsyncTextStream: 6 prompt tokens, 60 tokens, length>"


def test_mistakes_are_raised_by_the_call(llm: LLM) -> None:
    for prompt, sampling, message in (
        ("a", Sampling(n=2), "n = 2 is not allowed for a stream"), (None, LONG, "prompt = None is not allowed"),
        ([300], LONG, "token 300 is not allowed"), ("a", 3, r"sampling = 3 is not allowed; expected Sampling"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            llm.stream_async(prompt, sampling)  # type: ignore[arg-type]
    assert is_idle(llm)


def test_the_end_of_its_block_closes_it(llm: LLM) -> None:
    async def read() -> AsyncTextStream:
        async with llm.stream_async("def f", LONG) as stream:
            await anext(stream)
        return stream

    stream = run(read())
    assert is_idle(llm)
    assert stream.completion.finish_reason == "interrupted" and stream.completion.text


def test_a_closed_model_ends_it_with_an_error(llm: LLM) -> None:
    """After the text that had come; an answer that had ended by itself has no error."""

    async def read() -> tuple[str, AsyncTextStream]:
        ended = llm.stream_async("b", Sampling(1))
        stream, pieces = llm.stream_async("def f", LONG), []
        pieces.append(await anext(stream))
        await asyncio.to_thread(llm.close)
        with pytest.raises(ValueError, match=r"this LLM of .* was closed before the answer ended"):
            async for piece in stream:
                pieces.append(piece)
        assert "".join([piece async for piece in ended]) == ended.completion.text
        return "".join(pieces), stream

    text, stream = run(read())
    assert text == stream.completion.text and stream.completion.finish_reason == "interrupted"
    with pytest.raises(ValueError, match="is closed"):
        llm.stream_async("a", LONG)


def test_a_cancelled_read_closes_it(llm: LLM) -> None:
    async def read() -> None:
        stream = llm.stream_async("def f", LONG)
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(read())
    assert is_idle(llm)


def test_a_collected_one_gives_its_cache_back(llm: LLM) -> None:
    async def read() -> None:
        await anext(llm.stream_async("def f", LONG))

    run(read())
    gc.collect()
    assert is_idle(llm)


def test_two_readers_of_one_take_turns(llm: LLM) -> None:
    """No piece is lost or doubled."""

    async def read() -> tuple[list[str], AsyncTextStream]:
        stream, pieces = llm.stream_async("def f", LONG), []

        async def reader() -> None:
            async for piece in stream:
                pieces.append(piece)

        await asyncio.gather(reader(), reader())
        return pieces, stream

    pieces, stream = run(read())
    assert "".join(pieces) == stream.completion.text
