"""One message to several models in a browser, before a scripted folder of models."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install wavefold[serve]")
from tests.page.fake_pool import FakePool, pooled
from tests.page.fake_server import FakeServer
from tests.page.tools import until

NAMES = ["base", "base:cron", "base:dates", "base:units", "other"]


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer(pool=FakePool({name: pooled(name, "loaded") for name in NAMES}))


def opened(page: Any) -> Any:
    page.wait_for_selector("#tab-compare:visible")
    page.click("#tab-compare")
    return page


def tick(page: Any, name: str) -> Any:
    return page.get_by_role("checkbox", name=name, exact=True)


def ask(page: Any, text: str) -> None:
    page.fill("#compare-text", text)
    page.click("#compare-ask")


def until_all_ended(page: Any) -> None:
    until(page, "!document.querySelector('#compare-ask').hidden && !document.querySelector('#compare .writing')")


def test_those_that_are_ticked_answer_side_by_side(page, fake) -> None:
    opened(page)
    assert page.locator("#compare .tick").all_inner_texts() == NAMES
    tick(page, "base:units").uncheck()
    ask(page, "every monday")
    until_all_ended(page)
    asked = {body["model"]: body for kind, body in fake.asked if kind == "chat"}
    assert sorted(asked) == ["base", "base:cron", "base:dates"]
    assert all(body["messages"] == [{"role": "user", "content": "every monday"}] for body in asked.values())
    assert page.locator("#compare .column h2").all_inner_texts() == ["base", "base:cron", "base:dates"]
    answers = page.locator("#compare .column output").all_inner_texts()
    assert sorted(answers) == [f"Answer {number} to: every monday" for number in (1, 2, 3)]
    assert all("token" in cost for cost in page.locator("#compare .column .cost").all_inner_texts())
    assert page.inner_text("#status") == "All answers complete"
    tick(page, "other").check()
    page.fill("#compare-text", "again")
    page.keyboard.press("Enter")
    until_all_ended(page)
    assert page.locator("#compare .column h2").all_inner_texts() == ["base", "base:cron", "base:dates", "other"]
    assert all(answer.endswith("to: again") for answer in page.locator("#compare .column output").all_inner_texts())
    page.set_viewport_size({"width": 1280, "height": 800})
    tops = page.evaluate("[...document.querySelectorAll('#compare .column')].map((one) => one.offsetTop)")
    assert len(tops) == 4 and len(set(tops)) == 1, "the four that are ticked at first stand in one row"


def test_escape_stops_all(page, fake) -> None:
    opened(page)
    ask(page, "slow")
    until(page, "[...document.querySelectorAll('#compare .column output')].every((one) => one.textContent)")
    assert page.is_visible("#compare-stop") and page.is_hidden("#compare-ask")
    page.keyboard.press("Escape")
    until_all_ended(page)
    assert page.locator("#compare .column .cost").all_inner_texts() == ["stopped"] * 4
    for _ in range(100):
        if fake.left == 4:
            break
        page.wait_for_timeout(20)
    assert fake.left == 4


def test_one_that_fails_says_why_and_the_others_answer(page, fake) -> None:
    opened(page)
    fake.refuse = (503, {}, "model 'base' cannot be loaded: its file is cut")
    ask(page, "hello")
    until_all_ended(page)
    problems = [one for one in page.locator("#compare .column [role=alert]").all_inner_texts() if one]
    assert len(problems) == 1 and "its file is cut" in problems[0]
    answers = [one for one in page.locator("#compare .column output").all_inner_texts() if one]
    assert len(answers) == 3


def test_what_cannot_be_asked_is_said(page, fake) -> None:
    opened(page)
    page.click("#compare-ask")
    assert page.inner_text("#compare .panel-form [role=alert]") == "Write a message first."
    for one in page.locator("#compare .tick input").all():
        one.uncheck()
    ask(page, "hello")
    assert page.inner_text("#compare .panel-form [role=alert]") == "Tick at least one model."
    assert not [kind for kind, _ in fake.asked if kind == "chat"]


def test_a_model_that_comes_can_be_ticked_and_ticks_stay(page, fake) -> None:
    opened(page)
    tick(page, "base").uncheck()
    page.click("#tab-models")
    page.wait_for_selector("#models .served-row")
    fake.pool.models["new"] = pooled("new")
    until(page, "[...document.querySelectorAll('#compare .tick')].some((one) => one.textContent === 'new')")
    page.click("#tab-compare")
    assert tick(page, "base:cron").is_checked()
    assert not tick(page, "base").is_checked() and not tick(page, "new").is_checked()


@pytest.mark.parametrize("fake", [FakeServer(pool=FakePool({"base": pooled("base")}))])
def test_one_model_alone_is_not_compared(page, fake) -> None:
    until(page, "document.querySelectorAll('#model option').length === 1")
    assert page.is_hidden("#tab-compare")
