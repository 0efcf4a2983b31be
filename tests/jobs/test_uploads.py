"""A form that comes in pieces, beside one that comes whole; as the official client's own library writes it."""

from __future__ import annotations

import asyncio
import importlib.util
import random
from collections.abc import Callable
from typing import Any

import pytest

NEEDS = ("starlette", "pydantic", "python_multipart", "httpx2", "deepseek_recipe")
if any(importlib.util.find_spec(name) is None for name in NEEDS):
    pytest.skip(f"needs {', '.join(NEEDS)}", allow_module_level=True)

import httpx2  # noqa: E402

from wavefold.server import uploads  # noqa: E402
from wavefold.server.protocol import Refused  # noqa: E402
from wavefold.server.uploads import Form, read_form  # noqa: E402


class Kept:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def sent(content: bytes, name: str = "in.jsonl") -> tuple[bytes, str]:
    """Returns the body of a form, and its content type."""
    request = httpx2.Request("POST", "http://a", data={"purpose": "batch"}, files={"file": (name, content)})
    return request.read(), request.headers["content-type"]


def read(
    pieces: list[bytes], kind: str, most: int = 10_000, declared: str | None = None, leaves: bool = False
) -> tuple[Form, bytes]:
    kept, messages = Kept(), [
        {"type": "http.request", "body": piece, "more_body": leaves or place < len(pieces) - 1}
        for place, piece in enumerate(pieces)
    ]  # fmt: skip

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def in_thread(function: Callable[[], None]) -> None:
        function()

    return asyncio.run(read_form(receive, kind, declared, most, kept, in_thread)), kept.data


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\r\n--\r\n-- \r", bytes(range(256)), b"\r\n" * 50])
def test_every_way_to_cut_it_in_two(content: bytes) -> None:
    data, kind = sent(content, 'a "näme".jsonl')
    for place in range(len(data)):
        form, kept = read([data[:place], data[place:]], kind)
        assert kept == content and form.fields == {"purpose": "batch"} and form.name is not None


def test_many_pieces() -> None:
    rng = random.Random(1)
    content = rng.randbytes(3000)
    data, kind = sent(content)
    for _ in range(50):
        places = sorted(rng.randrange(len(data)) for _ in range(rng.randrange(200)))
        pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
        assert read(pieces, kind)[1] == content


def test_damaged_forms_are_refused_or_read() -> None:
    """Whatever a body is: a refusal with 4xx, or a form."""
    rng, num_refused = random.Random(2), 0
    data, kind = sent(b"{}\n" * 20)
    for _ in range(800):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.choice(b'\r\n-:;"\x00a\xff')
        try:
            read([bytes(damaged[: rng.randrange(len(damaged) * 2)])], kind)
        except Refused as refused:
            num_refused += 1
            assert 400 <= refused.status < 500
    assert 200 < num_refused < 800


@pytest.mark.parametrize("size", [101, 300_000])
def test_a_larger_one_is_refused(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it comes, as it is declared; what is kept is never more than the limit."""
    monkeypatch.setattr(uploads, "MOST_AROUND", 1000)
    data, kind = sent(bytes(size))
    for declared in (None, str(len(data))):
        if size == 101:
            assert read([data], kind, 100, declared)[0].name == "in.jsonl"  # the sink counts the file itself
            continue
        with pytest.raises(Refused, match="larger than 100 bytes") as error:
            read([data[place : place + 1000] for place in range(0, len(data), 1000)], kind, 100, declared)
        assert error.value.status == 413


def test_a_client_that_leaves() -> None:
    data, kind = sent(b"{}\n")
    with pytest.raises(Refused, match="client left"):
        read([data[:50], data[50:]], kind, leaves=True)
