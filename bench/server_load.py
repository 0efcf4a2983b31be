"""`wavefold serve` under load: what HTTP costs, what crowds cost others, and an hour of clients that behave badly.

    python bench/server_load.py rate [MODEL]    tokens/s of 16 streams through HTTP, beside the engine alone
    python bench/server_load.py peer MODEL --llama-server PROGRAM --gguf FILE
                                                1, 4 and 16 requests, beside llama.cpp's server (server_peer.py)
    python bench/server_load.py crowd [MODEL]   time between tokens beside 2,000 idle connections and 200 slow readers
    python bench/server_load.py soak [MODEL]    ten times the clients that the server takes for an hour, many of which
                                                behave badly (server_soak.py)

The server is a process of its own, on the kernels' own number of threads; clients share one event loop here.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from server_peer import peer
from server_soak import KINDS, soak
from serving import HEAD, body_of, prompts, served

from wavefold import LLM, Sampling
from wavefold.server.run import more_files


async def gaps_of(port: int, body: dict[str, Any]) -> list[float]:
    """The seconds between the tokens of a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data, times = json.dumps(body).encode(), []
    writer.write(HEAD % len(data) + data)
    while b"[DONE]" not in (line := await reader.readline()):
        assert line, "the stream broke off"
        if line.startswith(b"data: ") and b'"text"' in line:
            times.append(time.perf_counter())
    writer.close()
    return [later - sooner for sooner, later in itertools.pairwise(times)]


# -- what HTTP costs ---------------------------------------------------------------------------------------------------

USAGE = {"include_usage": True}


async def bytes_of(port: int, body: dict[str, Any]) -> bytes:
    """The bytes of a stream. Nothing is read in them meanwhile: the client has the server's cores."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    writer.write(HEAD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") % len(data) + data)
    parts = []
    while part := await reader.read(1 << 16):
        parts.append(part)
    writer.close()
    return b"".join(parts)


def rate(args: argparse.Namespace) -> None:
    llm = LLM(args.model, prefix_cache=False)
    engine, http = [], []
    with served(*([str(args.model)] if args.model else [])) as place, llm:
        for turn in range(args.turns):
            ids = prompts(args.streams, args.prompt, turn)
            total = args.streams * args.tokens
            began = time.perf_counter()
            llm.generate(ids, [Sampling(args.tokens, 1.0, seed=n, logit_bias={1: -100}) for n in range(args.streams)])
            engine.append(total / (time.perf_counter() - began))

            async def through_http(ids: list[list[int]]) -> tuple[float, list[bytes]]:
                began = time.perf_counter()
                bodies = [body_of(one, args.tokens, number, stream_options=USAGE) for number, one in enumerate(ids)]
                answers = await asyncio.gather(*(bytes_of(place.port, body) for body in bodies))
                return time.perf_counter() - began, answers

            seconds, answers = asyncio.run(through_http(ids))
            for answer in answers:
                assert b'"completion_tokens":%d,' % args.tokens in answer, answer[-400:]
            http.append(total / seconds)
            print(f"turn {turn}: engine {engine[-1]:.1f}, HTTP {http[-1]:.1f} tokens/s", flush=True)
    ratios = [two / one for one, two in zip(engine, http, strict=True)]
    print(f"{args.streams} streams of {args.tokens} tokens, medians of {args.turns}: engine "
          f"{statistics.median(engine):.1f}, HTTP {statistics.median(http):.1f} tokens/s; ratio "
          f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip


# -- what crowds cost others -------------------------------------------------------------------------------------------


def crowd(args: argparse.Namespace) -> None:
    more_files()
    with served(*([str(args.model)] if args.model else []), "--max-queue", "1000") as place:

        async def gaps(seed: int) -> list[float]:
            bodies = [body_of(ids, args.tokens, number) for number, ids in enumerate(prompts(8, args.prompt, seed))]
            found = await asyncio.gather(*(gaps_of(place.port, body) for body in bodies))
            return sorted(gap for one in found for gap in one)

        async def measured() -> None:
            alone = [await gaps(turn) for turn in range(args.turns)]
            idle = [await asyncio.open_connection("127.0.0.1", place.port) for _ in range(args.idle)]
            for _, writer in idle:
                writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            for reader, _ in idle:
                await reader.readuntil(b"}")
            slow = [slow_reader(place.port, number) for number in range(args.slow)]
            while place.value("wavefold_requests_running") > 0:
                await asyncio.sleep(0.5)
            beside = [await gaps(100 + turn) for turn in range(args.turns)]
            for _, writer in idle:
                writer.close()
            for connection in slow:
                connection.close()
            for name, found in (("alone", alone), ("beside the crowd", beside)):
                values = [one[int(len(one) * 0.99)] * 1e3 for one in found]
                middle = statistics.median(one[len(one) // 2] for one in found) * 1e3
                print(f"{name}: p99 between tokens {statistics.median(values):.2f} ms ({min(values):.2f} to "
                      f"{max(values):.2f}), p50 {middle:.2f} ms")  # fmt: skip

        asyncio.run(measured())


def slow_reader(port: int, number: int) -> socket.socket:
    """A client that reads nothing of its answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    data = json.dumps(body_of([0, 5, 6], 150, number)).encode()
    connection.sendall(HEAD % len(data) + data)
    return connection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rate", "peer", "crowd", "soak"))
    parser.add_argument("model", nargs="?", type=Path, help="a checkpoint (default: the model that ships)")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of an answer")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--clients", type=int, default=800, help="of the soak: ten times what the server takes")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--mute", type=int, default=16, help="of the soak: clients that read nothing of long streams")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of the soak's clients")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 4, 16], help="of `peer`: sent at once")
    parser.add_argument("--llama-server", help="of `peer`: the program, of a llama.cpp that knows the model")
    parser.add_argument("--gguf", type=Path, help="of `peer`: the model's weights for it")
    parser.add_argument("--threads", type=int, default=2, help="of `peer`: of each server")
    parser.add_argument("--out", type=Path, help="of `peer`: file to append JSON lines to")
    args = parser.parse_args()
    if args.part == "peer" and (args.model is None or (args.llama_server is None) != (args.gguf is None)):
        parser.error("peer needs MODEL, and --llama-server with --gguf, the file of the same weights")
    {"rate": rate, "peer": peer, "crowd": crowd, "soak": soak}[args.part](args)


if __name__ == "__main__":
    main()
