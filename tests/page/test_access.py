"""Everybody can use the page: judged by axe-core, by keys alone, at a phone's width, with 400 % of text."""

from __future__ import annotations

from typing import Any

import pytest

from tests.page.tools import ANSWERED, NO_AXE, axe_source, findings, send, until
from wavefold.server.app import COUNTS, PROTOCOLS
from wavefold.server.docs_page import docs_page
from wavefold.server.openapi import openapi

PHONE = {"viewport": {"width": 360, "height": 720}, "has_touch": True, "is_mobile": True}
LONG = " ".join(f"The river number {number} runs past the old mill." for number in range(40))


@pytest.fixture(scope="module")
def axe() -> str:
    source = axe_source()
    if source is None:
        pytest.skip(NO_AXE)
    return source


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(new_page, axe, theme) -> None:
    page = new_page(color_scheme=theme)
    assert findings(page, axe) == []
    send(page, "think")
    page.click(".thinking summary")
    send(page, "markdown")
    send(page, "break")
    page.click(".turn.last [data-act=again]")
    page.wait_for_selector(".turn.last .place")
    page.wait_for_selector(ANSWERED)
    page.locator(".turn.user").first.locator("[data-act=edit]").click()
    assert findings(page, axe) == []
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+Shift+KeyN")
    send(page, "A short text, since axe-core looks long at each token.")
    page.keyboard.press("Alt+Shift+KeyI")
    page.wait_for_selector(".strip")
    page.focus(".strip[tabindex='0']")
    assert findings(page, axe) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_dialogs_and_completion(new_page, axe, theme) -> None:
    page = new_page(color_scheme=theme)
    page.keyboard.press("Control+/")
    assert findings(page, axe) == []
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+Shift+KeyS")
    page.fill("#set-seed", "x")
    page.press("#set-seed", "Enter")
    assert findings(page, axe) == []
    page.fill("#set-seed", "1")
    page.press("#set-seed", "Enter")
    page.keyboard.press("Alt+Shift+KeyC")
    page.click("#complete")
    page.wait_for_selector("text=Take over")
    assert findings(page, axe) == []


def test_axe_sees_a_fault(page, axe) -> None:
    page.evaluate("document.querySelector('#composer-text').labels[0].remove()")
    page.evaluate("document.querySelector('#composer-text').removeAttribute('placeholder')")
    assert any(" label: " in found for found in findings(page, axe))


def test_axe_finds_nothing_on_a_phone(new_page, axe) -> None:
    page = new_page(**PHONE)
    send(page, "markdown")
    assert findings(page, axe) == []
    page.click("#menu")
    assert findings(page, axe) == []
    page.tap("#new-talk button")
    send(page, "short")
    page.click(".turn.last [data-act=look]")
    page.wait_for_selector(".strip")
    assert findings(page, axe) == []


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("width", [320, 1024])
def test_all_fits_into_narrow_windows(new_page, width) -> None:
    page = new_page(viewport={"width": width, "height": 700})
    send(page, "markdown")
    send(page, "x" * 300)
    assert overflow(page) == 0
    box = page.locator("#send").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    page.click(".turn.last [data-act=look]")
    page.wait_for_selector(".strip")
    assert overflow(page) == 0
    inside = page.locator(".inside-scroll").evaluate("one => one.scrollWidth - one.clientWidth")
    assert inside == 0
    page.click("[aria-label='Close Look inside']")
    page.keyboard.press("Alt+Shift+KeyC")
    page.click("#complete")
    page.wait_for_selector("text=Take over")
    assert overflow(page) == 0
    page.keyboard.press("Alt+Shift+KeyS")
    assert overflow(page) == 0


def test_a_phone(new_page) -> None:
    page = new_page(**PHONE)
    assert page.is_hidden(".sidebar")
    send(page, "hello")
    page.tap("#menu")
    page.wait_for_selector(".sidebar .talk >> text=hello")
    page.tap("#new-talk button")
    until(page, "!document.body.classList.contains('with-sidebar')")
    send(page, LONG)
    page.tap(".turn.last [data-act=look]")
    page.wait_for_selector(".strip")
    box = page.locator(".strip").nth(2).bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.3, box["y"] + 6)
    assert "Layer 2, HCA: entry" in page.inner_text(".readout")
    page.tap("[aria-label='Close Look inside']")
    assert page.is_hidden("#inside")
    small = page.locator("button:visible, select:visible").evaluate_all(
        """all => all.filter((one) => Math.min(one.offsetWidth, one.offsetHeight) < 24).map((one) => one.outerHTML)"""
    )
    assert small == [], "targets of at least 24 pixels (WCAG 2.5.8)"


def test_a_phone_shows_no_keyboard_by_itself(new_page) -> None:
    page = new_page(viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    until(page, "document.querySelectorAll('#model option').length === 2")
    assert focused(page) == "BODY"


@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_in_the_endpoints(browser, axe, width) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    counts = {path: body for path, (body, _) in COUNTS.items()}
    page.set_content(docs_page(openapi(PROTOCOLS, counts, "a model")))
    assert findings(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def focused(page: Any) -> str:
    """A name for what has the focus."""
    return page.evaluate(
        """(() => {
            const one = document.activeElement;
            return one.id || one.dataset.act || (one.dataset.token ? "token" : one.className || one.tagName);
        })()"""
    )


def tab_until(page: Any, name: str, key: str = "Tab") -> None:
    for _ in range(60):
        page.keyboard.press(key)
        if focused(page) == name:
            return
    raise AssertionError(f"{name} is not reached by {key}")


def test_by_keys_alone(page, fake) -> None:
    assert focused(page) == "composer-text", "what is typed at once is not lost"
    tab_until(page, "skip", "Shift+Tab")
    page.keyboard.press("Enter")
    assert focused(page) == "composer-text"
    page.keyboard.type("slow")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.assistant .turn-body > .prose')?.textContent.includes('word2')")
    page.keyboard.press("Escape")
    page.wait_for_selector(ANSWERED)
    page.keyboard.press("Alt+Shift+KeyE")
    page.keyboard.press("Control+A")
    page.keyboard.type("hello")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("text=Answer 2 to: hello")
    page.wait_for_selector(ANSWERED)
    assert focused(page) == "composer-text"
    page.keyboard.press("Alt+Shift+KeyR")
    page.wait_for_selector("text=Answer 3 to: hello")
    page.wait_for_selector(ANSWERED)
    tab_until(page, "left", "Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Answer 2 to: hello")
    tab_until(page, "look")
    page.keyboard.press("Enter")
    page.wait_for_selector(".strip")
    tab_until(page, "token")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until(page, f"{len(fake.asked)} && document.querySelector('.made-token').textContent !== 'Answer'")
    assert focused(page) == "token"
    tab_until(page, "strip")
    page.keyboard.press("End")
    assert "window, token" in page.inner_text(".readout")
    page.keyboard.press("Escape")
    assert page.is_hidden("#inside") and focused(page) == "look"
    page.keyboard.press("Alt+Shift+KeyN")
    assert focused(page) == "composer-text" and page.locator(".turn").count() == 0
    page.keyboard.press("Alt+Shift+KeyC")
    assert focused(page) == "tab-completion"
    page.keyboard.press("ArrowLeft")
    assert focused(page) == "tab-chat"


def test_dialogs_give_the_focus_back(page) -> None:
    page.focus("#flip")
    page.keyboard.press("Control+/")
    assert page.locator("dialog.keys tr").count() > 10
    page.keyboard.press("Escape")
    assert focused(page) == "flip" and page.locator("dialog").count() == 0


def test_every_focus_is_seen(page) -> None:
    """Each stop of the Tab key has an outline, or its frame has."""
    send(page, "hello")
    page.focus("#tab-chat")
    for _ in range(14):
        page.keyboard.press("Tab")
        shown = page.evaluate(
            """(() => {
                const one = document.activeElement;
                const frame = one.closest(".composer-card") ?? one;
                const style = getComputedStyle(frame);
                return one === document.body || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1);
            })()"""
        )
        assert shown, focused(page)


def test_a_screen_reader_hears_sentences_and_states(page, fake) -> None:
    page.evaluate(
        """(() => {
            window.heard = [];
            const watcher = new MutationObserver((changes) => {
                for (const change of changes) for (const node of change.addedNodes) window.heard.push(node.textContent);
            });
            for (const id of ["status", "speech"]) watcher.observe(document.getElementById(id), { childList: true });
        })()"""
    )
    fake.pause_s = 0.25
    send(page, "One sentence here. Another one there. The end")
    heard = page.evaluate("window.heard")
    assert heard[0] == "The model answers" and heard[-1] == "Answer complete"
    spoken = heard[1:-1]
    assert len(spoken) >= 2 and " ".join(spoken) == "Answer 1 to: One sentence here. Another one there. The end"
    assert all(text[-1] in ".:" for text in spoken[:-1])
    assert page.get_attribute(".turn.last", "aria-busy") == "false"


def test_motion_stops_for_those_who_ask(new_page, fake) -> None:
    fake.pause_s = 0.2
    page = new_page(reduced_motion="reduce")
    send(page, "slow", wait=False)
    page.wait_for_selector(".assistant.writing .turn-body > .prose p")
    running = page.evaluate("document.getAnimations().length")
    page.emulate_media(reduced_motion="no-preference")
    page.wait_for_timeout(50)
    moving = page.evaluate("document.getAnimations().length")
    page.click("#stop")
    assert running == 0 and moving > 0
