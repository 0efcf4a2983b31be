"""An engine that says what a test gives it, behind a server that runs with its real protocols.

client -> server -> protocol -> `Saying.submit` in the place of the engine's -> the texts, token by token -> client
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import anthropic
import openai

from tests.server.feeding import TOKENIZER
from tests.server.running import Running, served_model
from wavefold.engine import TokenLogprob, Usage
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.server.news import Ended, News, Reader

CACHED = 2
"""Tokens of every prompt that are told to be cached."""


class Said(NamedTuple):
    """`text`: markers in it are tokens. `reason`: as the engine ends it."""

    text: str
    reason: str = "eos"
    error: str = ""


class Saying:
    """Answers in turn with the texts that it was given. `requests`: what the engine was asked, in order."""

    def __init__(self, server: Running):
        self.server = server
        self.answers: deque[Said] = deque()
        self.requests: list[Request] = []

    def __call__(self, *answers: str | Said) -> None:
        """Gives the next answers, and forgets those before."""
        self.answers = deque(Said(one) if isinstance(one, str) else one for one in answers)
        self.requests.clear()

    def submit(self, *requests: Request) -> list[Reader]:
        """In the place of `Engine.submit`, in the event loop."""
        readers = [Reader(request, lambda reader, reason: None) for request in requests]
        self.requests += requests
        for reader in readers:
            self._say(reader, self.answers.popleft())
        return readers

    def _say(self, reader: Reader, said: Said) -> None:
        loop, sampling = asyncio.get_running_loop(), answer_of(reader.request).sampling
        ids = TOKENIZER.encode(said.text, allow_special=True)
        prompt = len(reader.request.prompt)
        loop.call_soon(reader.push, News(begun=Usage(prompt, cached_tokens=CACHED)))
        for number, token in enumerate(ids):
            best = ((token, -0.5), (40, -1.5))[: sampling.logprobs or 0]
            entries = [TokenLogprob(token, -0.5, 0, best)] if sampling.logprobs is not None else []
            loop.call_later(0.0005 * number, reader.push, News(ids=[token], logprobs=entries))
        usage = Usage(prompt, cached_tokens=CACHED, completion_tokens=len(ids))
        loop.call_later(0.0005 * len(ids), reader.push, News(ended=Ended(said.reason, usage, said.error)))

    @property
    def sampling(self) -> Any:
        """Of the last request."""
        return answer_of(self.requests[-1]).sampling

    @property
    def prompt(self) -> str:
        """Of the last request, as text."""
        return TOKENIZER.decode(self.requests[-1].prompt)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @contextlib.contextmanager
    def openai(self) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0) as client:
            yield client

    @contextlib.contextmanager
    def anthropic(self) -> Iterator[anthropic.Anthropic]:
        with anthropic.Anthropic(base_url=self.address, api_key="none", max_retries=0) as client:
            yield client

    def in_async(self, kind: Any, work: Any) -> Any:
        """Runs `work(client)` with the asynchronous client of a kind, `openai.AsyncOpenAI` or Anthropic's."""
        address = f"{self.address}/v1" if kind is openai.AsyncOpenAI else self.address

        async def main() -> Any:
            async with kind(base_url=address, api_key="none", max_retries=0) as client:
                return await asyncio.wait_for(work(client), 60)

        return asyncio.run(main())


@contextlib.contextmanager
def saying(**settings: Any) -> Iterator[Saying]:
    """A server that says what it is given."""
    with served_model(cache_tokens=16_384, **settings) as server:
        engine = Saying(server)
        server.one.running.submit = engine.submit  # type: ignore[method-assign]
        yield engine


def call(name: str, **arguments: tuple[bool, str]) -> str:
    """A block with one call: (is a string, text) of each argument."""
    return calls((name, arguments))


def calls(*named: tuple[str, dict[str, tuple[bool, str]]]) -> str:
    """A block of calls, as the model writes it."""
    return "\n\n<｜DSML｜tool_calls>\n" + "".join(_invoke(*one) for one in named) + "</｜DSML｜tool_calls>"


def _invoke(name: str, arguments: dict[str, tuple[bool, str]]) -> str:
    parameters = "".join(
        f'<｜DSML｜parameter name="{key}" string="{str(is_text).lower()}">{text}</｜DSML｜parameter>\n'
        for key, (is_text, text) in arguments.items()
    )
    return f'<｜DSML｜invoke name="{name}">\n{parameters}</｜DSML｜invoke>\n'


Answers = Sequence[str | Said]
