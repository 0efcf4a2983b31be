"""A browser for the whole run, a fake server and a page for each test. The page may log no error, ask nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.page.tools import NO_CHROMIUM, chromium, until


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. Skips where it or Playwright is absent.

    Not for a session: while Playwright runs, its thread has an event loop, which other files' tests want themselves.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    program = chromium()
    if program is None:
        pytest.skip(NO_CHROMIUM)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def fake() -> Any:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install wavefold[serve]")
    from tests.page.fake_server import FakeServer

    return FakeServer()


@pytest.fixture
def address(fake: Any) -> Iterator[str]:
    from tests.page.fake_server import serving

    with serving(fake.app()) as address:
        yield address


@pytest.fixture
def new_page(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page in a fresh profile, with settings of the context; checks what it logged and asked for."""
    contexts, problems = [], []

    def opened(**settings: Any) -> Any:
        settings = {"viewport": {"width": 1280, "height": 860}, "reduced_motion": "reduce"} | settings
        context = browser.new_context(**settings)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("console", lambda line: problems.append(line.text) if is_problem(line) else None)
        page.on("request", lambda request: None if is_ours(request.url) else problems.append(f"asked: {request.url}"))
        page.goto(address)
        until(page, "document.querySelector('#composer-actions').childElementCount > 0")
        return page

    def is_ours(url: str) -> bool:
        return url.startswith((address, "blob:", "about:"))

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def is_problem(line: Any) -> bool:
    """Errors and warnings, but not that of a status that a test asked for."""
    return line.type in ("error", "warning") and "the server responded with a status of" not in line.text


@pytest.fixture
def page(new_page: Any) -> Any:
    return new_page()
