"""A scripted server for the page: it speaks the endpoints that the page uses, and its model is a rule.

The last message decides the answer:

    "slow"        words until the client leaves, one in 30 ms
    "think"       reasoning, then the answer
    "long"        progress of reading 4,000 tokens, then the answer
    "break"       an error in the middle of the stream
    "vanish"      the stream ends without its end
    "markdown"    a bit of everything, with HTML and bad links in it
    otherwise     "Answer N to: TEXT", N counts requests

`python fake_server.py` runs it by itself, for a look at the page.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.page.fake_jobs import FakeJobs
from tests.page.fake_pool import FakePool
from wavefold.server.page import page_routes

MARKDOWN = """# A heading

Some **bold**, *slanted* and ~~struck~~ words, `code` and [a link](https://example.org/).

- one
- two
  1. deeper

| name | value |
|---|--:|
| a | 1 |

```python
print("<b>hello</b>")
```

> quoted

<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script>
[bad](javascript:window.hacked=1) ![picture](https://example.org/a.png)
"""
RATIOS = (0, 4, 128, 4, 128, 4)
KINDS = {0: "window", 4: "csa", 128: "hca"}
WINDOW, TOPK, EXPERTS, BLOCK = 128, 8, 16, 128


def tokens_of(text: str) -> list[str]:
    """Words with the blank before them, signs by themselves."""
    return re.findall(r" ?\w+|\s|[^\w\s]", text)


def shares(number: int, count: int, total: float) -> list[float]:
    """`count` masses of this sum, the same for the same number."""
    draws = random.Random(number)
    weights = [draws.random() ** 4 + 0.01 for _ in range(count)]
    return [float(f"{total * weight / sum(weights):.6g}") for weight in weights]


def layer_record(layer: int, ratio: int, position: int) -> dict[str, Any]:
    seed = layer * 100_003 + position
    width = min(WINDOW, position + 1)
    count = (position + 1) // ratio if ratio else 0
    chosen = random.Random(seed).sample(range(count), min(TOPK, count)) if ratio == 4 else None
    num_masses = count if chosen is None else len(chosen)
    entry_total = 0.35 if num_masses else 0.0
    entries = None
    if ratio:
        scores = None if chosen is None else sorted(shares(seed + 2, len(chosen), 5.0), reverse=True)
        entries = {"ratio": ratio, "overlap": ratio == 4, "count": count, "chosen": chosen, "scores": scores,
                   "mass": shares(seed + 1, num_masses, entry_total)}  # fmt: skip
    experts = [{"expert": expert, "weight": weight} for expert, weight in
               zip(random.Random(seed).sample(range(EXPERTS), 4), shares(seed + 3, 4, 1.5), strict=True)]  # fmt: skip
    return {"layer": layer, "kind": KINDS[ratio], "entries": entries, "sink_mass": 0.1, "experts": experts,
            "window": {"first": position + 1 - width, "mass": shares(seed, width, 0.9 - entry_total)},
            "hashed": layer == 0}  # fmt: skip


def inside_record(request: Mapping[str, Any]) -> dict[str, Any]:
    """What /v1/wavefold/inside answers, by the contract."""
    turns = [message["content"] for message in request.get("messages", [])]
    parts = [request["text"]] if "text" in request else turns
    text = "\n".join(parts + [request[name] for name in ("suffix", "answer") if name in request])
    words = ["<bos>", *tokens_of(text)]
    position = request.get("position", len(words) - 1)
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    following = words[position + 1] if position + 1 < len(words) else None
    others = [word for word in ids if word not in (following, "<bos>")][:9]
    top = [(following or " the", 0.5), *((word, 0.5 * 0.4 * 0.6**rank) for rank, word in enumerate(others))]
    return {
        "position": position, "token": words[position], "tokens": [{"id": ids[word], "text": word} for word in words],
        "next": None if following is None else {"id": ids[following], "text": following, "probability": 0.5},
        "top": [{"id": ids.get(word, 9999), "text": word, "probability": float(f"{p:.6g}")} for word, p in top],
        "layers": [layer_record(layer, ratio, position) for layer, ratio in enumerate(RATIOS)],
        "mtp": {"guess": 3, "text": " guess", "probability": 0.25, "accepted": position % 2 == 0},
        "cache": {"blocks": math.ceil((position + 1) / BLOCK), "prefix_hit_tokens": (position + 1) // BLOCK * BLOCK},
    }  # fmt: skip


@dataclass
class FakeServer:
    """What was asked, and how the next requests are answered."""

    key: str = ""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    left: int = 0
    """Streams whose client left."""
    refuse: tuple[int, dict[str, str], str] | None = None
    """(status, headers, message) for the next chat."""
    answers: dict[str, str] = field(default_factory=dict)
    """By message, beside the rules above."""
    pool: FakePool | None = None
    jobs: FakeJobs | None = None
    """None: it has one model, and no queue."""
    pause_s: float = 0.001

    def app(self) -> Starlette:
        parts = [part for part in (self.pool, self.jobs) if part is not None]
        return Starlette(routes=[
            *page_routes(), *(route for part in parts for route in part.routes(self._refusal)),
            Route("/v1/models", self.models), Route("/v1/models/{name}", self.one_model),
            Route("/v1/wavefold/machine", self.machine),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/wavefold/inside", self.inside, methods=["POST"]),
        ])  # fmt: skip

    def _refusal(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "no key, or a wrong one", "type": "authentication_error"}}, 401)
        return None

    async def models(self, request: Request) -> Response:
        names = ("wavefold-nano", "other-model") if self.pool is None else self.pool.names
        data = [{"id": name, "object": "model"} for name in names]
        parts = {"models": self.pool is not None, "jobs": self.jobs is not None}
        return self._refusal(request) or JSONResponse({"object": "list", "data": data, "wavefold": parts})

    async def one_model(self, request: Request) -> Response:
        told = {"id": request.path_params["name"], "max_tokens": 8192}
        return self._refusal(request) or JSONResponse(told if "anthropic-version" in request.headers else {})

    async def machine(self, request: Request) -> Response:
        self.asked.append(("machine", dict(request.query_params)))
        if self.pool is not None and self.pool.state(request.query_params["model"]) != "loaded":
            return JSONResponse({"error": {"message": "it is not in memory", "code": "model_not_found"}}, 404)
        return self._refusal(request) or JSONResponse({
            "model": "wavefold-nano", "tokens_per_s": 41.5, "bound_tokens_per_s": 60.0, "bytes_read": 123_456_789,
            "drafts": {"guessed": 20, "right": 15},
            "memory": {"resident_bytes": 1_234_567_890, "limit_bytes": 4_000_000_000},
            "requests": {"running": 1, "waiting": 2},
            "prefix_blocks": {"used": 12, "total": 48},
        })  # fmt: skip

    async def inside(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = await request.json()
        self.asked.append(("inside", body))
        return JSONResponse(inside_record(body))

    async def chat(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = await request.json()
        self.asked.append(("chat", body))
        if self.refuse is not None:
            (status, headers, message), self.refuse = self.refuse, None
            return JSONResponse({"error": {"message": message}}, status, headers)
        number = sum(kind == "chat" for kind, _ in self.asked)
        return self._stream(self._chat_events(body["messages"], number), "progress" in str(request.headers))

    async def _chat_events(self, messages: list[dict[str, Any]], number: int) -> AsyncIterator[Any]:
        text = messages[-1]["content"]
        prompt = len(tokens_of("\n".join(message["content"] for message in messages))) + 2
        if text == "long":
            for read in range(0, 4001, 500):
                yield f"progress {read}/4000"
                await asyncio.sleep(0.08)
        if text == "think":
            for piece in tokens_of("The reader wants a thought."):
                yield {"delta": {"reasoning_content": piece}}
        known = {"markdown": MARKDOWN} | self.answers
        answer = known.get(text, f"Answer {number} to: {text}")
        pieces = re.findall(r"\s*\S+\s*?", answer) + ([""] if answer.endswith("\n") else [])
        count = 0
        while text == "slow":
            count += 1
            yield {"delta": {"content": f"word{count} "}}
            await asyncio.sleep(0.03)
        for count, piece in enumerate(pieces, 1):
            yield {"delta": {"content": piece}}
            if count == 2 and text == "break":
                yield {"error": {"message": "the disk is gone", "type": "server_error"}}
                return
            if count == 2 and text == "vanish":
                return
        yield {"delta": {}, "finish_reason": "stop"}
        cached = {"cached_tokens": prompt // 2}
        yield {"usage": {"prompt_tokens": prompt, "completion_tokens": count, "prompt_tokens_details": cached}}

    async def complete(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = await request.json()
        self.asked.append(("complete", body))
        return self._stream(self._completion_events(body), False)

    async def _completion_events(self, body: dict[str, Any]) -> AsyncIterator[Any]:
        answer = " filled the gap" if body.get("suffix") else "    return sum(values) / len(values)\n"
        for piece in tokens_of(answer):
            yield {"text": piece}
        yield {"text": "", "finish_reason": "stop"}
        yield {"usage": {"prompt_tokens": len(tokens_of(body["prompt"])) + 1, "completion_tokens": 4}}

    def _stream(self, events: AsyncIterator[Any], progress: bool) -> Response:
        async def frames() -> AsyncIterator[str]:
            ended = False
            try:
                async for event in events:
                    if isinstance(event, str):
                        yield f": {event}\n\n" if progress else ": keep-alive\n\n"
                        continue
                    whole = event if "usage" in event or "error" in event else {"choices": [{"index": 0, **event}]}
                    yield f"data: {json.dumps(whole)}\n\n"
                    ended = "usage" in event
                    await asyncio.sleep(self.pause_s)
                if ended:
                    yield "data: [DONE]\n\n"
            except asyncio.CancelledError:
                self.left += 1
                raise

        return StreamingResponse(frames(), media_type="text/event-stream")


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """Serves on a free port of loopback, in a thread; yields the address."""
    place = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{place.getsockname()[1]}/"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        place.close()


if __name__ == "__main__":
    uvicorn.run(FakeServer(pause_s=0.03).app(), port=8765)
