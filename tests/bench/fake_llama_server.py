"""Stands in for llama-server: `prompt[0]` tokens wait so many milliseconds, then come one every 10 ms, as events do.

A prompt that begins with 0 is refused, one that begins with 1 fails amid its answer. With `-m dies` it ends at once.
"""

from __future__ import annotations

import asyncio
import json
import sys

REFUSED, FAILS = 0, 1


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length:")[2].split()[0])
    body = await reader.readexactly(length)

    def send(event: dict[str, object]) -> None:
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    if head.startswith("GET /health"):
        writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"status":"ok"}')
    else:
        asked = json.loads(body)
        assert asked["ignore_eos"] and asked["temperature"] == 0 and not asked["cache_prompt"]
        first = asked["prompt"][0]
        if first == REFUSED:
            writer.write(b'HTTP/1.1 400 Bad Request\r\n\r\n{"error": "too many tokens"}')
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await asyncio.sleep(first / 1000)
            for number in range(asked["n_predict"]):
                send({"error": "no room"} if first == FAILS else {"tokens": [number], "stop": False})
                await writer.drain()
                await asyncio.sleep(0.01)
            send({"tokens": [], "stop": True})
            writer.write(b"0\r\n\r\n")
    await writer.drain()
    writer.close()


async def main() -> None:
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    if options["-m"] == "dies":
        sys.exit("no such file")
    server = await asyncio.start_server(answer, options["--host"], int(options["--port"]))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
