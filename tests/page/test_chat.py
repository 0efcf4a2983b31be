"""Chat in a browser: a message typed, streamed, stopped, regenerated, edited; what is kept; what can go wrong."""

from __future__ import annotations

import json

import pytest

from tests.page.tools import ANSWERED, send, texts, until


def test_a_message_is_typed_and_the_answer_streams(page, fake) -> None:
    fake.pause_s = 0.1
    page.click("#composer-text")
    page.keyboard.type("one two three four five six")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.assistant .turn-body > .prose')?.textContent.startsWith('Answer 1')")
    assert page.locator(".assistant.writing").count() == 1
    assert "six" not in page.inner_text(".assistant .turn-body > .prose")
    assert page.is_hidden("#send") and page.is_visible("#stop")
    page.wait_for_selector(ANSWERED)
    assert texts(page) == ["one two three four five six", "Answer 1 to: one two three four five six"]
    assert "9 tokens" in page.inner_text(".turn.last .cost") and "from the cache" in page.inner_text(".turn.last .cost")
    kind, body = fake.asked[0]
    assert kind == "chat" and body["stream"] is True and body["stream_options"] == {"include_usage": True}
    assert body["messages"] == [{"role": "user", "content": "one two three four five six"}]
    assert body["model"] == "wavefold-nano"
    assert set(body) == {"model", "messages", "stream", "stream_options", "return_token_ids"}


def test_an_answer_is_stopped_and_kept(page, fake) -> None:
    send(page, "slow", wait=False)
    until(page, "document.querySelector('.assistant .turn-body > .prose')?.textContent.includes('word3')")
    page.click("#stop")
    page.wait_for_selector(ANSWERED)
    assert "stopped" in page.inner_text(".turn.last .cost")
    kept = page.inner_text(".assistant .turn-body > .prose")
    assert kept.startswith("word1 word2 word3")
    page.wait_for_timeout(150)
    assert page.inner_text(".assistant .turn-body > .prose") == kept
    assert fake.left == 1, "the server did not see the client leave"
    send(page, "and now")
    assert [message["role"] for message in fake.asked[1][1]["messages"]] == ["user", "assistant", "user"]


def test_an_answer_is_regenerated_and_both_versions_stay(page) -> None:
    send(page, "hello")
    page.click(".turn.last [data-act=again]")
    page.wait_for_selector(".turn.last .place")
    page.wait_for_selector(ANSWERED)
    assert texts(page)[-1] == "Answer 2 to: hello"
    assert page.inner_text(".turn.last .place") == "2 of 2"
    page.click(".turn.last [data-act=left]")
    assert texts(page)[-1] == "Answer 1 to: hello"
    assert page.evaluate("document.activeElement.dataset.act") == "right", "the focus stays with the versions"
    send(page, "more")
    page.locator(".turn.assistant").first.locator("[data-act=right]").click()
    assert texts(page) == ["hello", "Answer 2 to: hello"]
    page.click(".turn.last [data-act=left]")
    assert len(texts(page)) == 4, "what was said below the first version is still there"


def test_a_message_is_edited(page, fake) -> None:
    send(page, "hello")
    send(page, "again")
    page.locator(".turn.user").first.locator("[data-act=edit]").click()
    page.fill(".editing textarea", "goodbye")
    page.click(".editing button[type=submit]")
    page.wait_for_selector(ANSWERED)
    assert texts(page) == ["goodbye", "Answer 3 to: goodbye"]
    assert fake.asked[-1][1]["messages"] == [{"role": "user", "content": "goodbye"}]
    page.locator(".turn.user [data-act=left]").click()
    assert texts(page) == ["hello", "Answer 1 to: hello", "again", "Answer 2 to: again"]


def test_an_answer_is_edited_and_sent_so(page, fake) -> None:
    send(page, "hello")
    page.click(".turn.last [data-act=edit]")
    page.fill(".editing textarea", "my own words")
    page.press(".editing textarea", "Control+Enter")
    assert texts(page) == ["hello", "my own words"]
    send(page, "next")
    assert fake.asked[-1][1]["messages"][1] == {"role": "assistant", "content": "my own words"}
    page.locator(".turn.user").first.locator("[data-act=edit]").click()
    page.press(".editing textarea", "Escape")
    assert page.locator(".editing").count() == 0 and len(texts(page)) == 4


def test_conversations_are_kept_named_exported_and_deleted(page) -> None:
    send(page, "first talk")
    page.click("#new-talk button")
    send(page, "second talk")
    page.reload()
    page.wait_for_selector(".talks li")
    assert page.locator(".talks .talk").all_inner_texts() == ["second talk", "first talk"]
    page.click(".talks li:nth-child(2) .talk")
    assert texts(page) == ["first talk", "Answer 1 to: first talk"]
    page.click("[aria-label='Rename first talk']")
    page.fill(".talk-name", "a better name")
    page.press(".talk-name", "Enter")
    page.wait_for_selector("[aria-label='Export a better name']")
    page.hover(".talks li.current")
    page.click("[aria-label='Export a better name']")
    with page.expect_download() as download:
        page.click("text=JSON, all versions")
    exported = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "a-better-name.json"
    assert sorted(turn["content"] for turn in exported["turns"].values()) == ["Answer 1 to: first talk", "first talk"]
    page.hover(".talks li.current")
    page.click("[aria-label='Delete a better name']")
    page.click("dialog .danger")
    until(page, "document.querySelectorAll('.talks li').length === 1")
    page.reload()
    page.wait_for_selector(".talks li")
    assert page.locator(".talks .talk").all_inner_texts() == ["second talk"]


def test_a_deleted_conversation_stays_away_though_its_answer_was_coming(page) -> None:
    send(page, "slow", wait=False)
    until(page, "document.querySelector('.assistant .turn-body > .prose')?.textContent.includes('word3')")
    page.hover(".talks li.current")
    page.click("[aria-label='Delete slow']")
    page.click("dialog .danger")
    until(page, "document.querySelectorAll('.talks li').length === 0")
    page.wait_for_timeout(1000)
    page.reload()
    page.wait_for_timeout(200)
    assert page.locator(".talks li").count() == 0


def test_an_answer_goes_on_while_another_conversation_is_open(page, fake) -> None:
    fake.pause_s = 0.05
    send(page, "one two three four five six seven", wait=False)
    until(page, "document.querySelector('.assistant .turn-body > .prose')?.textContent.startsWith('Answer')")
    page.click("#new-talk button")
    assert texts(page) == []
    until(page, "!document.querySelector('#send').hidden")
    page.click(".talks .talk")
    assert texts(page)[-1] == "Answer 1 to: one two three four five six seven"


def test_settings_are_sent_and_kept(page, fake) -> None:
    page.click("#sidebar-foot >> text=Settings")
    page.fill("#set-system", "be short")
    page.fill("#set-temperature", "7")
    page.click("dialog [type=submit]")
    assert "7 is not a number from 0 to 2" in page.inner_text("#set-temperature-problem")
    page.wait_for_selector("#set-max_tokens-hint >> text=at most 8,192")
    page.fill("#set-max_tokens", "8193")
    page.click("dialog [type=submit]")
    assert "8193 is not a whole number from 1 to 8192" in page.inner_text("#set-max_tokens-problem")
    page.fill("#set-temperature", "0.5")
    page.fill("#set-max_tokens", "12")
    assert page.inner_text("#set-temperature-problem") == page.inner_text("#set-max_tokens-problem") == ""
    assert page.evaluate("document.activeElement.id") == "set-max_tokens", "a problem goes before the focus does"
    page.select_option("#set-thinking", "off")
    page.click("dialog [type=submit]")
    send(page, "hi")
    body = fake.asked[0][1]
    assert body["messages"][0] == {"role": "system", "content": "be short"}
    assert (body["temperature"], body["max_tokens"], body["thinking"]) == (0.5, 12, {"type": "disabled"})
    page.reload()
    page.wait_for_selector("#sidebar-foot >> text=Settings")
    page.click("#sidebar-foot >> text=Settings")
    assert page.input_value("#set-temperature") == "0.5" and page.input_value("#set-system") == ""


def test_thinking_is_folded(page) -> None:
    send(page, "think")
    thought = page.locator(".thinking .prose")
    assert not thought.is_visible()
    page.click(".thinking summary")
    assert thought.inner_text() == "The reader wants a thought."
    assert texts(page)[-1] == "Answer 1 to: think"


def test_progress_of_a_long_prompt(page) -> None:
    send(page, "long", wait=False)
    page.wait_for_selector("text=/Reading [1-9],[05]00 of 4,000 tokens/")
    assert page.get_attribute(".reading progress", "max") == "4000"
    until(page, "document.querySelector('#status').textContent.startsWith('Reading the prompt: ')")
    page.wait_for_selector(ANSWERED)
    assert page.is_hidden(".reading") and page.inner_text("#status") == "Answer complete"


def test_markdown_is_shown_and_html_is_not_run(page) -> None:
    send(page, "markdown")
    prose = page.locator(".turn.last .prose:visible")
    assert prose.locator("h3").inner_text() == "A heading"
    assert prose.locator("pre code").inner_text().strip() == 'print("<b>hello</b>")'
    assert prose.locator("strong, em, s").all_inner_texts() == ["bold", "slanted", "struck"]
    assert prose.locator("table td").all_inner_texts() == ["a", "1"]
    assert page.evaluate("document.querySelectorAll('.prose img, .prose script, .prose b').length") == 0
    assert page.evaluate("window.hacked") is None
    hrefs = prose.locator("a").evaluate_all("links => links.map(link => link.href)")
    assert hrefs == ["https://example.org/", "https://example.org/a.png"]
    assert "<script>window.hacked=1</script>" in prose.inner_text()


def test_code_without_a_fence_is_shown_as_it_was_written(new_page, fake) -> None:
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    code = "class Stack:\n    def __init__(self):\n        self._a = self._b = []\n\n"
    code += "    def top(self):\n        return self._a[-1]"
    answer = code + "\n\nIt calls __init__ and sets *self._a*, self._b."
    fake.answers["stack"] = answer
    send(page, "stack")
    prose = page.locator(".turn.last .turn-body > .prose")
    assert prose.locator("pre code").all_text_contents() == [code]
    assert prose.locator("p").inner_text() == "It calls __init__ and sets self._a, self._b."
    assert prose.locator("strong, em").all_inner_texts() == ["self._a"]
    page.click(".turn.last [data-act=copy]")
    page.wait_for_selector(".turn.last [data-act=copy] >> text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == answer


def test_code_is_copied(new_page, address) -> None:
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    send(page, "markdown")
    page.click(".copy-code")
    page.wait_for_selector(".copy-code >> text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == 'print("<b>hello</b>")'


@pytest.mark.parametrize(
    ("text", "problem"),
    [("break", "the disk is gone"), ("vanish", "The connection ended in the middle of the answer.")],
)
def test_a_stream_that_breaks_is_told(page, text, problem) -> None:
    send(page, text)
    assert problem in page.inner_text(".turn.last .turn-problem")
    assert texts(page)[-1].startswith("Answer 1")


def test_refusals_are_told_in_words(page, fake) -> None:
    fake.refuse = (429, {"Retry-After": "3"}, "the queue is full")
    send(page, "hi")
    problem = page.inner_text(".turn.last .turn-problem")
    assert "as much to do as it takes on" in problem and "Try again in 3 s" in problem and "queue is full" in problem
    page.click(".turn.last [data-act=again]")
    page.wait_for_selector("text=Answer 2 to: hi")


def test_a_key_is_asked_for_and_used(new_page, fake) -> None:
    fake.key = "secret-1"
    page = new_page()
    page.wait_for_selector("dialog.settings")
    assert "API key" in page.inner_text("#alert")
    assert page.evaluate("document.activeElement.id") == "set-key"
    assert "The server asks for an API key." in page.inner_text("#set-key-problem")
    page.fill("#set-key", "wrong")
    page.press("#set-key", "Enter")
    page.wait_for_selector("#set-key-problem >> text=The server refused this key.")
    page.fill("#set-key", "secret-1")
    page.press("#set-key", "Enter")
    until(page, "document.querySelectorAll('#model option').length === 2")
    assert page.is_hidden("#alert")
    send(page, "hi")
    assert texts(page)[-1] == "Answer 1 to: hi"
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    local, session = json.loads(stored)
    assert "secret-1" not in json.dumps(local) and "secret-1" in json.dumps(session)


@pytest.mark.parametrize("way", ["Escape", "Close", "Done"])
def test_who_has_no_key_closes_the_settings(page, fake, way) -> None:
    send(page, "hi")
    fake.key = "secret-1"
    page.reload()
    page.wait_for_selector("dialog.settings")
    with page.expect_response("**/v1/models"):
        if way == "Escape":
            page.keyboard.press("Escape")
        else:
            page.click(f"dialog >> role=button[name={way}]")
    page.wait_for_timeout(300)
    assert page.locator("dialog").count() == 0 and "API key" in page.inner_text("#alert")
    page.click(".talks .talk")
    assert texts(page) == ["hi", "Answer 1 to: hi"]
    page.fill("#composer-text", "more")
    page.press("#composer-text", "Enter")
    page.wait_for_selector(".turn-problem >> text=API key")
    page.click("#sidebar-foot >> text=Settings")
    assert "The server asks for an API key." in page.inner_text("#set-key-problem")


def test_a_reader_who_scrolled_away_stays_there(page) -> None:
    page.set_viewport_size({"width": 1000, "height": 420})
    send(page, "markdown")
    send(page, "slow", wait=False)
    until(page, "document.querySelectorAll('.turn-body > .prose')[1]?.textContent.includes('word20')")
    scroll = "document.querySelector('#turns-scroll')"
    assert page.evaluate(f"{scroll}.scrollHeight - {scroll}.scrollTop - {scroll}.clientHeight < 4")
    page.evaluate(f"{scroll}.scrollTop = 0")
    until(page, "document.querySelectorAll('.turn-body > .prose')[1]?.textContent.includes('word60')")
    assert page.evaluate(f"{scroll}.scrollTop") == 0
    page.click("#stop")


def test_themes_and_models(page, fake) -> None:
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#flip")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.select_option("#model", "other-model")
    send(page, "hi")
    assert fake.asked[0][1]["model"] == "other-model"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_two_tabs_show_the_same_conversations(page, address) -> None:
    send(page, "hello")
    other = page.context.new_page()
    other.goto(address)
    other.click(".talks .talk")
    send(other, "from the other tab")
    until(page, "document.querySelectorAll('.turn').length === 4")
    assert texts(page)[2] == "from the other tab"
    send(page, "and back")
    until(other, "document.querySelectorAll('.turn').length === 6")
    other.hover(".talks li")
    other.click("[aria-label='Delete hello']")
    other.click("dialog .danger")
    until(
        page, "document.querySelectorAll('.talks li').length === 0 && document.querySelectorAll('.turn').length === 0"
    )


def test_a_server_of_one_model_without_a_queue_has_two_tabs(page, fake) -> None:
    until(page, "document.querySelectorAll('#model option').length === 2")
    page.wait_for_timeout(200)
    assert page.locator("[role=tab]:visible").all_inner_texts() == ["Chat", "Completion"]
    page.keyboard.press("Alt+Shift+KeyO")
    page.keyboard.press("Alt+Shift+KeyJ")
    assert page.is_visible("#chat") and page.is_hidden("#models") and page.is_hidden("#jobs")
