"""The page before `wavefold serve` with the model that ships: the same acts, and numbers of the model's own record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install wavefold[serve]")
pytest.importorskip("deepseek_recipe", reason="deepseek-recipe is not installed: pip install wavefold[serve]")
pytest.importorskip("playwright", reason="Playwright is not installed: pip install playwright")

from tests.page.shown import check_shown
from tests.page.tools import ANSWERED, NO_AXE, axe_source, findings, send, texts, until
from tests.server.running import Running, running
from wavefold import LLM, ops
from wavefold.chat.encoding import chat_ids
from wavefold.chat.fim import hole_ids
from wavefold.inside import look, values_of
from wavefold.server.contexts import context_for
from wavefold.server.keys import Keys, new_key
from wavefold.server.protocol import PROTOCOLS

CODE = "def heappush(heap, item):\n    heap.append(item)\n    _siftdown(heap, 0, len(heap) - 1)\n\n\n" * 12
QUESTION = "What does os.path.join do?"


@pytest.fixture(scope="module")
def model() -> Iterator[LLM]:
    with ops.using(backend="auto"), LLM(width=4, cache_tokens=8192, threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def server(model: LLM) -> Iterator[Running]:
    with running(model, PROTOCOLS, context_for(model, ("wavefold", "another-name"))) as server:
        yield server


@pytest.fixture
def address(server: Running) -> str:
    """In place of the fake server's."""
    return f"http://127.0.0.1:{server.port}/"


def settings(page: Any, **fields: str) -> None:
    page.keyboard.press("Alt+Shift+KeyS")
    for name, value in fields.items():
        page.fill(f"#set-{name}", value)
    page.click("dialog [type=submit]")


def ids_of(model: LLM, question: str) -> list[int]:
    assert model.tokenizer is not None
    return chat_ids(model.tokenizer, [{"role": "user", "content": question}])


def test_it_asks_for_nothing_that_the_server_does_not_have(page) -> None:
    """No queue, no folder of models: the browser's console logs each 404."""
    seen: list[tuple[int, str]] = []
    page.on("response", lambda response: seen.append((response.status, response.url)))
    page.reload()
    page.wait_for_load_state("networkidle")
    assert page.is_hidden("#tab-jobs") and page.is_hidden("#tab-models")
    assert [url for _, url in seen if url.endswith("/v1/models")] and not [one for one in seen if one[0] >= 400]


def test_an_answer_streams_is_stopped_regenerated_and_edited(page, model) -> None:
    until(page, "document.querySelectorAll('#model option').length === 2")
    settings(page, max_tokens="16", seed="3")
    send(page, QUESTION)
    first = texts(page)[1]
    tokens = re.search(r"(\d+) tokens", page.inner_text(".turn.last .cost"))
    assert first and tokens is not None and 1 < int(tokens[1]) <= 16  # it may end before, by the processor's rounding
    page.click(".turn.last [data-act=again]")
    page.wait_for_selector(".turn.last .place")
    page.wait_for_selector(ANSWERED)
    assert texts(page)[1] == first, "the same seed gives the same answer"
    page.locator(".turn.user [data-act=edit]").click()
    page.fill(".editing textarea", "def f(x):")
    page.press(".editing textarea", "Control+Enter")
    page.wait_for_selector(".turn.user .place")
    page.wait_for_selector(ANSWERED)
    assert texts(page)[0] == "def f(x):" and page.inner_text(".turn.user .place") == "2 of 2"
    page.click("#new-talk button")
    settings(page, max_tokens="4000", temperature="0")
    page.fill("#composer-text", "class A:")  # of which it finds no end
    page.press("#composer-text", "Enter")
    until(page, "document.querySelector('.turn.writing .turn-body > .prose')?.textContent.length > 20")
    page.click("#stop")
    page.wait_for_selector(ANSWERED)
    assert "stopped" in page.inner_text(".turn.last .cost")
    until_idle(model, page)


def until_idle(model: LLM, page: Any) -> None:
    for _ in range(400):
        if model.runner is not None and model.runner.idle:
            return
        page.wait_for_timeout(20)
    raise AssertionError("the request of a stopped answer still runs")


def test_look_inside_shows_the_record_of_the_model(page, model) -> None:
    settings(page, max_tokens="12", temperature="0")
    send(page, CODE)
    page.click(".turn.last [data-act=again]")
    page.wait_for_selector(".turn.last .place")
    page.wait_for_selector(ANSWERED)
    assert "from the cache" in page.inner_text(".turn.last .cost"), "the prompt of this answer was known"
    with page.expect_request("**/v1/wavefold/inside") as asked:
        page.click(".turn.last [data-act=look]")
    page.wait_for_selector(".strip")
    body = asked.value.post_data_json
    ids = body["ids"]
    assert body["position"] == len(prompt := ids_of(model, CODE)) - 1 and ids[: len(prompt)] == prompt
    assert model.tokenizer.decode(ids[len(prompt) :]).split() == page.inner_text(".turn.last pre").split()  # it is code
    record = values_of(look(model, ids, body["position"]), ids, model.tokenizer)
    check_shown(page, record | {"cache": record["cache"] | {"prefix_hit_tokens": hit_of(page)}})
    assert any(
        layer["entries"] and layer["kind"] == "hca" and layer["entries"]["count"] > 1 for layer in record["layers"]
    )
    page.locator(".token.later").nth(2).click()
    until(page, f"document.querySelector('.made').textContent.includes('position {body['position'] + 3} ')")
    record = values_of(look(model, ids, body["position"] + 3), ids, model.tokenizer)
    check_shown(page, record | {"cache": record["cache"] | {"prefix_hit_tokens": hit_of(page)}})


def hit_of(page: Any) -> int:
    """Tokens found in the prefix cache, as shown: they depend on what ran before."""
    return page.evaluate(
        "Number((/first ([0-9,]+) tokens/.exec(document.querySelector('[aria-labelledby=inside-cache]').textContent)"
        " ?? ['', '0'])[1].replaceAll(',', ''))"
    )


def test_a_completion_is_looked_at_from_its_first_token(page) -> None:
    """The last blank of the prompt joins the first word that is written: the text has a token less than the prompt."""
    page.keyboard.press("Alt+Shift+KeyC")
    settings(page, max_tokens="8", temperature="0")
    page.fill("#complete-before", "import os\n\n\ndef read(path):\n    with ")
    page.click("#complete")
    page.wait_for_selector("text=Take over")
    written = page.evaluate("document.querySelector('#complete-answer').textContent")
    page.click(".completion-foot >> text=Look inside")
    page.wait_for_selector(".strip")
    first = page.inner_text(".made-token").replace("·", " ").strip()
    assert first and written.strip().startswith(first)


def test_a_gap_is_filled_and_looked_into(page, model) -> None:
    page.keyboard.press("Alt+Shift+KeyC")
    settings(page, max_tokens="12", temperature="0")
    page.fill("#complete-before", "def mean(values):\n    return ")
    page.fill("#complete-after", " / len(values)\n")
    page.click("#complete")
    page.wait_for_selector("text=Take over")
    with page.expect_request("**/v1/wavefold/inside") as asked:
        page.click(".completion-foot >> text=Look inside")
    page.wait_for_selector(".strip")
    body = asked.value.post_data_json
    prompt = hole_ids(model.tokenizer, "def mean(values):\n    return ", " / len(values)\n")
    assert body["ids"][: body["position"] + 1] == prompt
    assert model.tokenizer.decode(body["ids"][len(prompt) :]) == page.inner_text("#complete-answer")
    top = page.locator("[aria-labelledby=inside-top] tbody tr")
    assert "written" in top.first.inner_text(), "at temperature 0 the first token written is the likeliest"
    assert "<|fim_end|>" in page.inner_text(".made")


def test_the_machine_is_shown(page) -> None:
    settings(page, max_tokens="4")
    send(page, QUESTION)
    page.click(".turn.last [data-act=look]")
    page.wait_for_selector(".machine dd")
    machine = page.inner_text(".machine")
    assert "tokens/s" in machine and "0 running, 0 waiting" in machine and "GB" in machine


def test_progress_of_a_long_prompt_is_told(page) -> None:
    page.evaluate(
        """(() => {
            window.seen = [];
            const read = () => document.querySelector(".turn.last .reading")?.textContent ?? "";
            const watcher = new MutationObserver(() => window.seen.push(read()));
            watcher.observe(document.querySelector("#turns"), { childList: true, subtree: true });
        })()"""
    )
    settings(page, max_tokens="2")
    send(page, "x = [1, 2, 3]\n" * 300)
    seen = [text for text in page.evaluate("window.seen") if text.startswith("Reading")]
    assert seen, "no progress was told"
    assert seen[-1].split(" ")[3].replace(",", "").isdigit()


def test_errors_of_the_server_are_told(page) -> None:
    send(page, "x " * 30_000)
    assert "refused" in page.inner_text(".turn.last .turn-problem")


def test_a_key_is_needed_and_used(model, browser, tmp_path) -> None:
    key = new_key(tmp_path / "keys")
    with running(model, PROTOCOLS, context_for(model, ("wavefold",)), keys=Keys.read(tmp_path / "keys")) as server:
        context = browser.new_context(reduced_motion="reduce")
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.wait_for_selector("dialog.settings")
        page.fill("#set-key", "wrong")
        page.press("#set-key", "Enter")
        page.wait_for_selector("dialog.settings")
        page.fill("#set-key", key)
        page.press("#set-key", "Enter")
        until(page, "document.querySelectorAll('#model option').length === 1")
        settings(page, max_tokens="4")
        send(page, QUESTION)
        assert texts(page)[1]
        context.close()


def test_axe_finds_nothing(page) -> None:
    axe = axe_source()
    if axe is None:
        pytest.skip(NO_AXE)
    settings(page, max_tokens="8")
    send(page, QUESTION)
    page.click(".turn.last [data-act=look]")
    page.wait_for_selector(".machine dd")
    assert findings(page, axe) == []
