"""The page's files, read once and served from memory: `/` is index.html, `/page/NAME` each of the others.

What a browser may do with them is said by headers. Nothing runs but scripts of this server, nothing is fetched from
elsewhere, no other site may frame the page, and no script may turn text into HTML (Trusted Types).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""`no-cache`: a browser keeps a file and asks whether its ETag still holds, so a new version is seen at once."""


class PageFile(NamedTuple):
    """A file's bytes, and what its response says of them."""

    content: bytes
    headers: Mapping[str, str]


@cache
def page_files() -> Mapping[str, PageFile]:
    """Returns all files by name. A file of another type than the page is made of is a mistake, and raises KeyError."""
    return {path.name: _page_file(path) for path in sorted(FOLDER.iterdir()) if path.is_file()}


def _page_file(path: Path) -> PageFile:
    content = path.read_bytes()
    tag = hashlib.sha256(content).hexdigest()[:32]
    return PageFile(content, HEADERS | {"Content-Type": TYPES[path.suffix], "ETag": f'"{tag}"'})


def page_response(name: str, if_none_match: str = "") -> Response:
    """Returns the response for a file: 404 for an unknown name, 304 where the copy of the browser still holds."""
    found = page_files().get(name)
    if found is None:
        return Response("not found", 404, HEADERS | {"Content-Type": "text/plain; charset=utf-8"})
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    if found.headers["ETag"] in tags:
        return Response(status_code=304, headers=found.headers)
    return Response(found.content, headers=found.headers)


async def _index(request: Request) -> Response:
    return page_response(INDEX, request.headers.get("if-none-match", ""))


async def _other(request: Request) -> Response:
    return page_response(request.path_params["name"], request.headers.get("if-none-match", ""))


def page_routes() -> list[Route]:
    """Returns the routes of the page, for the app that serves the endpoints it uses. They need no key."""
    page_files()
    return [Route("/", _index, methods=["GET"]), Route("/page/{name}", _other, methods=["GET"])]
