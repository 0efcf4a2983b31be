"""Everybody can use the panels of models and jobs: axe-core, keys, narrow windows, a phone."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install wavefold[serve]")
from tests.page.fake_jobs import FakeJobs
from tests.page.fake_pool import FakePool, pooled
from tests.page.fake_server import FakeServer
from tests.page.test_access import PHONE, overflow
from tests.page.tools import NO_AXE, axe_source, findings, until

LONG = "x" * 90


@pytest.fixture
def fake() -> FakeServer:
    models = [pooled("broken", "faulty", fault=f"{LONG} is cut"), pooled("loaded", "loaded", pinned=True),
              pooled(LONG), pooled("leaving", "leaving"), pooled("loading", "loading")]  # fmt: skip
    jobs = FakeJobs()
    jobs.step(jobs.add(f"{LONG}.jsonl", 3), 2, 1)
    jobs.add("bad.jsonl", 0, status="failed", errors={"data": [{"line": 1, "message": LONG}]})
    jobs.step(jobs.add("now.jsonl", 30, wavefold={"paused": "the disk is full"}), 10, left_s=100.0)
    return FakeServer(pool=FakePool({model["name"]: model for model in models}), jobs=jobs)


def compared(page) -> None:
    """Two models have answered side by side, one of them of a long name."""
    page.click("#tab-compare")
    page.fill("#compare-text", LONG)
    page.click("#compare-ask")
    until(page, "!document.querySelector('#compare-ask').hidden && document.querySelectorAll('.column').length > 1")


@pytest.mark.parametrize("profile", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE])
def test_axe_finds_nothing(new_page, profile) -> None:
    axe = axe_source()
    if axe is None:
        pytest.skip(NO_AXE)
    page = new_page(**profile)
    compared(page)
    assert findings(page, axe) == []
    for name in ("models", "jobs"):
        page.click(f"#tab-{name}")
        page.wait_for_selector(f"#{name} .served-row")
        page.locator("details:visible").evaluate_all("all => all.forEach((one) => (one.open = true))")
        assert findings(page, axe) == []


@pytest.mark.parametrize("width", [320, 1024])
def test_all_fits_and_targets_are_large(new_page, width) -> None:
    page = new_page(viewport={"width": width, "height": 700})
    for name in ("compare", "models", "jobs"):
        if name == "compare":
            compared(page)
        else:
            page.click(f"#tab-{name}")
            page.wait_for_selector(f"#{name} .served-row")
        assert overflow(page) == 0
        assert page.locator(f"#{name}").evaluate("one => one.scrollWidth - one.clientWidth") == 0
        small = page.locator("button:visible, select:visible, .tick:visible, .job-links a").evaluate_all(
            "all => all.filter((one) => Math.min(one.offsetWidth, one.offsetHeight) < 24).map((one) => one.outerHTML)"
        )
        assert small == []


def test_by_keys_alone(page) -> None:
    page.wait_for_selector("#tab-jobs:visible")
    page.focus("#tab-chat")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector("#models .served-row")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-chat", "it goes round"
    page.keyboard.press("Alt+Shift+KeyJ")
    assert page.evaluate("document.activeElement.id") == "tab-jobs" and page.is_visible("#job-file")
    page.keyboard.press("Alt+Shift+KeyD")
    assert page.evaluate("document.activeElement.id") == "tab-compare" and page.is_visible("#compare-text")
    page.keyboard.press("Alt+Shift+KeyO")
    assert page.is_hidden("#jobs") and page.is_visible("#models")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Unload loaded":
            break
    else:
        raise AssertionError("the button is not reached by Tab")
    assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 1
