"""Look inside and completion in a browser: what is shown is what the server said, number by number."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install wavefold[serve]")
from tests.page.fake_server import inside_record
from tests.page.shown import check_shown, percent
from tests.page.tools import send, until

TEXT = " ".join(f"The river number {number} runs past the old mill." for number in range(40))


def look(page: Any, text: str = TEXT) -> None:
    send(page, text)
    page.click(".turn.last [data-act=look]")
    page.wait_for_selector(".strip")


def record(fake: Any) -> dict[str, Any]:
    """What the server said last."""
    return inside_record(next(body for kind, body in reversed(fake.asked) if kind == "inside"))


def test_the_first_token_of_an_answer_is_looked_at(page, fake) -> None:
    look(page)
    kind, body = fake.asked[-1]
    assert kind == "inside"
    assert body["messages"] == [{"role": "user", "content": TEXT}] and body["answer"] == f"Answer 1 to: {TEXT}"
    said = record(fake)
    following = said["tokens"][said["position"] + 1]["text"]
    assert page.inner_text(".made-token") == following == "Answer"
    assert f"made at position {said['position']}" in page.inner_text(".made")
    assert page.evaluate("document.activeElement.id") == "inside-title"


def test_numbers_are_those_of_the_server(page, fake) -> None:
    look(page)
    check_shown(page, record(fake))


def test_another_token_is_chosen(page, fake) -> None:
    look(page)
    token = page.locator(".token.later", has_text=re.compile("^ mill$")).first
    number = int(token.get_attribute("data-token"))
    token.click()
    until(
        page, f"document.querySelector('.made').textContent.includes('token {number}, made at position {number - 1} ')"
    )
    assert fake.asked[-1][1]["position"] == number - 1
    assert page.inner_text(".made-token") == "·mill"
    assert page.get_attribute(f"[data-token='{number}']", "aria-selected") == "true"
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.made').textContent.includes('would come next')")
    assert "position" in fake.asked[-1][1]


def test_an_entry_is_read_by_pointing_and_by_keys(page, fake) -> None:
    look(page)
    said = record(fake)
    layer = next(layer for layer in said["layers"] if layer["kind"] == "hca")
    strip = page.locator(f"tr[data-layer='{layer['layer']}'] .strip")
    box = strip.bounding_box()
    length = said["position"] + 1
    page.mouse.move(box["x"] + box["width"] * (128 + 64) / length, box["y"] + 6)
    readout = page.inner_text(".readout")
    assert "entry 1, tokens 128 to 255" in readout and percent(layer["entries"]["mass"][1]) in readout
    text = "".join(token["text"] for token in said["tokens"][128:256])
    assert page.inner_text(".entry-text").replace("·", " ").replace("↵", "\n").strip() == text.strip()
    framed = page.locator(".token.framed").evaluate_all("chips => chips.map((chip) => Number(chip.dataset.token))")
    assert framed == list(range(128, 256))
    page.mouse.move(10, 10)
    strip.focus()
    page.keyboard.press("Home")
    assert strip.get_attribute("aria-valuenow") == "0"
    assert strip.get_attribute("aria-valuetext").startswith("entry 0, tokens 0 to 127")
    page.keyboard.press("ArrowRight")
    assert "entry 1, tokens 128 to 255" in page.inner_text(".readout")
    page.keyboard.press("End")
    assert f"window, token {said['position']}" in page.inner_text(".readout")
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.closest('tr').dataset.layer")
    assert int(below) == layer["layer"] + 1
    assert page.inner_text("#inside-layer").startswith(f"Layer {below}")


def test_what_the_indexer_left_out_is_told(page, fake) -> None:
    look(page)
    said = record(fake)
    layer = next(layer for layer in said["layers"] if layer["kind"] == "csa")
    left_out = next(entry for entry in range(5, layer["entries"]["count"]) if entry not in layer["entries"]["chosen"])
    box = page.locator(f"tr[data-layer='{layer['layer']}'] .strip").bounding_box()
    page.mouse.move(box["x"] + box["width"] * (left_out * 4 + 2) / (said["position"] + 1), box["y"] + 6)
    assert f"entry {left_out} was not chosen" in page.inner_text(".readout")


def test_colours_follow_the_mass(page, fake) -> None:
    """The darkest place of an HCA strip is that of the heaviest entry."""
    look(page)
    said = record(fake)
    layer = next(layer for layer in said["layers"] if layer["kind"] == "hca")
    mass, length = layer["entries"]["mass"], said["position"] + 1
    alphas = page.evaluate(
        """([layer, places]) => {
            const canvas = document.querySelector(`tr[data-layer="${layer}"] canvas`);
            const row = canvas.getContext("2d").getImageData(0, 4, canvas.width, 1).data;
            return places.map((place) => row[4 * Math.floor(place * canvas.width)]);
        }""",
        [layer["layer"], [(entry * 128 + 64) / length for entry in range(len(mass))]],
    )
    order = sorted(range(len(mass)), key=lambda entry: -mass[entry])
    assert sorted(range(len(mass)), key=lambda entry: alphas[entry]) == order, "green on white: less red is more mass"


def test_the_machine_is_shown(page) -> None:
    look(page, "hi")
    page.wait_for_selector(".machine dd")
    machine = page.inner_text(".machine")
    for words in (
        "41.5 tokens/s of at most 60.0",
        "1 running, 2 waiting",
        "12 of 48",
        "15 of 20",
        "1.2 GB of 4.0 GB",
        "123 MB",
    ):
        assert words in machine


def test_a_refusal_to_look_is_told(page, fake) -> None:
    send(page, "hi")
    fake.key = "changed"
    page.click(".turn.last [data-act=look]")
    page.wait_for_selector(".inside .turn-problem:visible")
    assert "API key" in page.inner_text(".inside .turn-problem")
    page.keyboard.press("Escape")
    assert page.is_hidden("#inside")
    assert page.evaluate("document.activeElement.dataset.act") == "look"


def test_completion_and_the_gap_between_two_texts(page, fake) -> None:
    page.click("#tab-completion")
    page.fill("#complete-before", "The sun")
    page.press("#complete-before", "Control+Enter")
    page.wait_for_selector("text=Take over")
    assert page.inner_text("#complete-answer") == "    return sum(values) / len(values)\n"
    kind, body = fake.asked[-1]
    assert (kind, body["prompt"], "suffix" in body) == ("complete", "The sun", False)
    page.click(".completion-foot >> text=Look inside")
    page.wait_for_selector(".strip")
    assert fake.asked[-1][1]["text"] == "The sun    return sum(values) / len(values)\n"
    page.click("[aria-label='Close Look inside']")
    page.click("text=Take over")
    assert page.input_value("#complete-before") == "The sun    return sum(values) / len(values)\n"
    page.fill("#complete-after", "the end")
    page.click("#complete")
    page.wait_for_selector("text=Take over")
    assert page.inner_text("#complete-answer") == " filled the gap"
    assert fake.asked[-1][1]["suffix"] == "the end"
    page.click(".completion-foot >> text=Look inside")
    page.wait_for_selector(".strip")
    looked = {name: fake.asked[-1][1][name] for name in ("text", "suffix", "answer")}
    assert looked == {"text": page.input_value("#complete-before"), "suffix": "the end", "answer": " filled the gap"}
