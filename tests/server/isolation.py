"""Many requests at once, each with a mark in its prompt: each gets its own answer, to the token, and no other mark.

    python -m tests.server.isolation --count 10000

Prompts are drawn from a few hundred marked ones. Their answers are computed before, one after another, without the
server, batch-invariant: so an answer that read a token of another request is seen in its own tokens, not only where it
repeats a mark. Kinds of traffic: with and without the prefix cache, with clients that leave, and with a pool so small
that requests are preempted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import resource
import time
from collections import Counter
from typing import Any, NamedTuple

from tests.server.asking import ask
from tests.server.running import Running, running
from wavefold import LLM, Sampling, ops
from wavefold.server.contexts import context_for
from wavefold.server.protocol import PROTOCOLS

MARK = re.compile(r"mark_[a-z]{6}_")
PATH = "/v1/completions"


class Kind(NamedTuple):
    """A kind of traffic. `leaving`: the share of clients that leave before the end. `longest`: tokens of an answer."""

    name: str
    prefix_cache: bool = True
    leaving: float = 0.0
    cache_tokens: int = 65_536
    longest: int = 16


KINDS = (
    Kind("with the prefix cache"), Kind("without it", prefix_cache=False), Kind("clients that leave", leaving=0.4),
    Kind("preempted", cache_tokens=640, longest=60), Kind("all of it", leaving=0.3, cache_tokens=640, longest=60),
)  # fmt: skip


def prompts(count: int, rng: random.Random) -> list[str]:
    """Marked texts: some begin alike, so that the prefix cache has something to share."""
    beginnings = ["", "import os\nimport sys\n" * 10, "def f(x):\n    return x\n" * 12]
    texts = []
    for _ in range(count):
        mark = f"mark_{''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=6))}_"
        texts.append(f"{rng.choice(beginnings)}{mark} = {rng.randrange(1000)}\n" + "x = 1\n" * rng.randrange(40))
    return texts


def length_of(number: int, kind: Kind) -> int:
    """The tokens of the answer to a prompt."""
    return 4 + number * 7 % (kind.longest - 3)


SPARE_FILES = 200
"""Files that are no connections."""


def body_of(prompt: str, max_tokens: int, stream: bool) -> dict[str, Any]:
    """A request whose answer begins with its prompt."""
    return {"model": "wavefold", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "echo": True,
            "stream": stream}  # fmt: skip


def answered_alone(llm: LLM, texts: list[str], kind: Kind) -> list[str]:
    """Each prompt with its answer, computed alone; no last token is open to another one, as the server echoes."""
    answers = []
    for number, text in enumerate(texts):
        ids = llm.requests.needs_tokenizer().encode(text, bos=True)
        [answer] = llm.generate([ids], Sampling(length_of(number, kind), temperature=0))
        answers.append(text + (answer.text or ""))
    return answers


async def traffic(
    server: Running, texts: list[str], expected: list[str], count: int, kind: Kind, seed: int
) -> Counter[str]:
    """Sends `count` requests, all at once, or as many as this process may have connections for at both ends.

    Returns what became of them. Fails where an answer is another one's.
    """
    rng, seen = random.Random(seed), Counter[str]()
    at_once = asyncio.Semaphore((resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES) // 2)

    async def one(number: int, stream: bool, leave_after: int | None) -> None:
        body = body_of(texts[number], length_of(number, kind), stream)
        async with at_once:
            answer = await ask(server.port, PATH, body, leave_after)
        if answer is None:
            seen["left"] += 1
            return
        assert answer.status == 200, (answer.status, answer.data)
        parts = answer.frames if stream else [answer.json]
        text = "".join(choice["text"] for part in parts for choice in part["choices"])
        assert set(MARK.findall(text)) <= set(MARK.findall(texts[number])), f"a mark of another request: {text!r}"
        assert text == expected[number], f"not the answer alone: {text!r}, {expected[number]!r}"
        seen["streamed" if stream else "whole"] += 1

    jobs = []
    for _ in range(count):
        leave_after = rng.randrange(3) * 400 if rng.random() < kind.leaving else None
        jobs.append(one(rng.randrange(len(texts)), rng.random() < 0.5, leave_after))
    await asyncio.gather(*jobs)
    return seen


def isolate(count: int, kind: Kind, num_prompts: int = 200, seed: int = 1) -> tuple[Counter[str], int]:
    """Runs one kind of traffic. Returns what became of the requests, and how many were preempted."""
    texts = prompts(num_prompts, random.Random(seed))
    preempted = 0
    with ops.using(backend="auto"):
        with LLM(width=16, batch_invariant=True, prefix_cache=False) as llm:
            expected = answered_alone(llm, texts, kind)
        settings: dict[str, Any] = {"prefix_cache": kind.prefix_cache, "cache_tokens": kind.cache_tokens}
        with LLM(width=16, batch_invariant=True, **settings) as llm:
            preempt = llm.runner._scheduler._preempt

            def counted(request: Any) -> None:
                nonlocal preempted
                preempted += 1
                preempt(request)

            llm.runner._scheduler._preempt = counted  # type: ignore[method-assign]
            with running(llm, PROTOCOLS, context_for(llm, ("wavefold",)), max_queue=count) as server:
                seen = asyncio.run(traffic(server, texts, expected, count, kind, seed))
            assert llm.runner.idle
    return seen, preempted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="requests of each kind (default 10,000)")
    parser.add_argument("--kinds", type=int, nargs="*", default=range(len(KINDS)), help="numbers from 0")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    from wavefold.server.run import more_files

    more_files()
    for number in args.kinds:
        began = time.perf_counter()
        seen, preempted = isolate(args.count, KINDS[number], seed=args.seed)
        print(
            f"{KINDS[number].name}: {dict(seen)}, {preempted} preempted, {time.perf_counter() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
