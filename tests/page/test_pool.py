"""The models' panel in a browser, before a scripted folder of models; and the model that is chosen."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install wavefold[serve]")
from tests.page.fake_pool import FakePool, pooled
from tests.page.fake_server import FakeServer
from tests.page.tools import send, until

BAD = "two.gguf holds <script>window.hacked=1</script>; expected one model"


@pytest.fixture
def fake() -> FakeServer:
    models = [pooled("broken", "faulty", fault=BAD), pooled("one", "loaded", memory_bytes=160_000_000, pinned=True),
              pooled("three", kind="gguf"), pooled("two", last_used="2001-02-03T04:05:06Z")]  # fmt: skip
    return FakeServer(pool=FakePool({model["name"]: model for model in models}))


def opened(page: Any) -> Any:
    page.click("#tab-models")
    page.wait_for_selector(".served-row")
    return page


def row(page: Any, name: str) -> Any:
    return page.locator(f"[data-model='{name}']")


def state(page: Any, name: str) -> str:
    return str(row(page, name).locator(".state").inner_text())


def until_state(page: Any, name: str, wanted: str) -> None:
    until(page, f"document.querySelector(`[data-model='{name}']`).dataset.state === '{wanted}'")


def test_all_that_the_server_says_is_shown(page) -> None:
    opened(page)
    assert page.locator(".served-row h2").all_inner_texts() == ["broken", "one", "three", "two"]
    one = row(page, "one").inner_text()
    for words in ("safetensors", "pinned", "loaded", "On disk\n151 MB", "In memory\n160 MB", "Users\n0", "Waiting\n0"):
        assert words in one
    assert "GGUF" in row(page, "three").inner_text() and "In memory\n–" in row(page, "three").inner_text()
    assert "days ago" in row(page, "two").inner_text() and "Last use\n–" in row(page, "three").inner_text()
    assert BAD in row(page, "broken").inner_text() and row(page, "broken").locator("button:visible").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.inner_text("#models > div > .panel-lead") == "460 MB of 700 MB in memory, 0 loads so far"
    share = page.locator("#models .bar i").evaluate("one => one.style.getPropertyValue('--share')")
    assert float(share) == pytest.approx(460 / 700)


def test_load_and_unload(page, fake) -> None:
    opened(page)
    page.get_by_role("button", name="Load two").focus()
    page.keyboard.press("Enter")
    until_state(page, "two", "loading")
    button = row(page, "two").locator("button")
    assert button.get_attribute("aria-disabled") == "true"
    page.keyboard.press("Enter")
    fake.pool.set("two", "loaded")
    until_state(page, "two", "loaded")
    assert button.inner_text() == "Unload" and button.evaluate("one => one === document.activeElement")
    page.keyboard.press("Enter")
    until_state(page, "two", "leaving")
    fake.pool.set("two", "on disk")
    until_state(page, "two", "on disk")
    assert "In memory\n–" in row(page, "two").inner_text()


def test_a_swap_is_seen_and_heard(page, fake) -> None:
    """Nobody touches the page: it looks again by itself."""
    opened(page)
    fake.pool.swap("one", "two")
    until_state(page, "two", "loading")
    assert state(page, "one") == "leaving" and "Waiting\n2" in row(page, "two").inner_text()
    assert page.inner_text("#status") == "one: leaving; two: loading"
    fake.pool.end_swap("one", "two")
    until_state(page, "two", "loaded")
    assert state(page, "one") == "on disk" and "Last use\njust now" in row(page, "two").inner_text()
    assert page.inner_text("#status") == "one: on disk; two: loaded"
    assert "1 load so far" in page.inner_text("#models > div > .panel-lead")


def test_a_load_that_fails_says_why_in_words(page, fake) -> None:
    opened(page)
    page.get_by_role("button", name="Load two").click()
    until_state(page, "two", "loading")
    fake.pool.set("two", "on disk")
    problem = row(page, "two").locator("[role=alert]")
    problem.wait_for()
    assert problem.inner_text() == "model 'two' cannot be loaded: <b>its file</b> is cut"
    page.get_by_role("button", name="Load two").click()
    until_state(page, "two", "loading")
    assert problem.is_hidden()


def test_a_fault_that_comes_is_told(page, fake) -> None:
    opened(page)
    fake.pool.set("three", "faulty", fault="its config.json is cut")
    until_state(page, "three", "faulty")
    assert page.inner_text("#status") == "three: faulty, its config.json is cut"
    until(page, "document.querySelectorAll('#model option').length === 2")
    fake.pool.down = True
    page.wait_for_selector("#models .panel-inner > .turn-problem:visible")
    assert "the folder is gone" in page.inner_text("#models .panel-inner > .turn-problem")
    fake.pool.down = False
    until(page, "document.querySelector('#models .panel-inner > .turn-problem').hidden")


def test_it_looks_while_it_is_open_alone(page, fake) -> None:
    opened(page)
    looks = fake.pool.looks
    page.wait_for_timeout(1500)
    assert fake.pool.looks > looks
    page.click("#tab-chat")
    page.wait_for_timeout(100)
    looks = fake.pool.looks
    page.wait_for_timeout(1500)
    assert fake.pool.looks == looks


def test_the_model_that_is_chosen_is_asked_and_kept(page, fake) -> None:
    until(page, "document.querySelectorAll('#model option').length === 3")
    page.select_option("#model", "two")
    send(page, "hello")
    assert fake.asked[-1][1]["model"] == "two"
    page.keyboard.press("Alt+Shift+KeyC")
    page.click("#complete")
    page.wait_for_selector("text=Take over")
    assert fake.asked[-1][1]["model"] == "two"
    page.keyboard.press("Alt+Shift+KeyI")
    page.wait_for_selector(".strip")
    assert [body["model"] for kind, body in fake.asked if kind == "inside"] == ["two"]
    until(
        page, "document.querySelector('[aria-labelledby=inside-machine]').innerText.includes('two is not in memory.')"
    )
    page.select_option("#model", "one")
    until(page, "document.querySelector('.inside [role=status]').textContent.includes('one reads a text that two')")
    page.wait_for_selector(".machine dd")
    looks = [body for kind, body in fake.asked if kind == "inside"]
    assert [body["model"] for body in looks] == ["two", "one", "one"], "the second of one is where two began to write"
    assert {body["model"] for kind, body in fake.asked if kind == "machine"} == {"two", "one"}
    page.select_option("#model", "two")
    page.reload()
    until(page, "document.querySelector('#model').value === 'two'")
    fake.pool.set("two", "faulty", fault="gone")
    page.reload()
    until(page, "document.querySelector('#model').value === 'one'")
    fake.pool.set("two", "on disk", fault=None)
    page.reload()
    until(page, "document.querySelector('#model').value === 'two'")


def test_a_key_is_used(page, fake) -> None:
    fake.key = "secret"
    page.reload()
    page.wait_for_selector("dialog.settings")
    assert page.is_hidden("#tab-models")
    page.fill("#set-key", "secret")
    page.press("#set-key", "Enter")
    page.wait_for_selector("#tab-models:visible")
    opened(page)
    page.get_by_role("button", name="Load two").click()
    until_state(page, "two", "loading")
    fake.pool.set("two", "loaded")
    until_state(page, "two", "loaded")


def test_examples_are_for_a_base_and_not_for_its_adapters(page, fake) -> None:
    fake.pool.models["one:cron"] = pooled("one:cron", kind="adapter")
    page.reload()
    page.wait_for_selector("#model option[value='one:cron']", state="attached")
    assert page.locator(".starter:visible").count() == 3
    page.select_option("#model", "one:cron")
    assert page.locator(".starter:visible").count() == 0
    page.select_option("#model", "one")
    assert page.locator(".starter:visible").count() == 3
