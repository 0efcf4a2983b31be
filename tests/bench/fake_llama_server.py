"""Stands in for llama-server: `prompt[0]` tokens wait so many milliseconds, then come one every 10 ms, as events do.

A prompt that begins with 0 is refused, one that begins with 1 fails amid its answer. With `-m dies` it ends at once.
Without a stream it remembers one prompt: what the next one begins with of it is not computed, but for the last token.
That is saved into a file of --slot-save-path, and restored from there.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

REFUSED, FAILS = 0, 1
OPTIONS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
slot: list[int] = []


def completed(asked: dict[str, object]) -> dict[str, object]:
    prompt: list[int] = asked["prompt"]  # type: ignore[assignment]
    shared = next((at for at, (ours, theirs) in enumerate(zip(slot, prompt, strict=False)) if ours != theirs),
                  min(len(slot), len(prompt)))  # fmt: skip
    shared = min(shared, len(prompt) - 1)
    slot[:] = prompt
    return {"content": "", "timings": {"prompt_n": len(prompt) - shared}}


def slot_action(action: str, name: str) -> dict[str, object]:
    path = Path(OPTIONS["--slot-save-path"]) / name
    if action == "save":
        path.write_text(json.dumps(slot))
    else:
        slot[:] = json.loads(path.read_text())
    return {"id_slot": 0}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length:")[2].split()[0])
    body = await reader.readexactly(length)

    def send(event: dict[str, object]) -> None:
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    if head.startswith("GET /health"):
        writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"status":"ok"}')
    elif head.startswith("POST /slots/0?action="):
        action = head.split()[1].rpartition("=")[2]
        data = json.dumps(slot_action(action, json.loads(body)["filename"])).encode()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + data)
    elif not (asked := json.loads(body)).get("stream") and asked["prompt"][0] != REFUSED:
        assert asked["ignore_eos"] and asked["temperature"] == 0 and asked["cache_prompt"]
        await asyncio.sleep(asked["prompt"][0] / 1000)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(completed(asked)).encode())
    else:
        assert asked["ignore_eos"] and asked["temperature"] == 0 and asked["cache_prompt"] != asked.get("stream", False)
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
    if OPTIONS["-m"] == "dies":
        sys.exit("no such file")
    server = await asyncio.start_server(answer, OPTIONS["--host"], int(OPTIONS["--port"]))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
