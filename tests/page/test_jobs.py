"""The jobs' panel in a browser, before a scripted queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install wavefold[serve]")
pytest.importorskip("python_multipart", reason="python-multipart is not installed: pip install wavefold[serve]")
from tests.page.fake_jobs import FakeJobs, lines_of
from tests.page.fake_pool import FakePool, pooled
from tests.page.fake_server import FakeServer
from tests.page.tools import until


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer(jobs=FakeJobs(), pool=FakePool({name: pooled(name) for name in ("one", "two")}))


def opened(page: Any) -> Any:
    page.click("#tab-jobs")
    until(page, "document.querySelector('.served-row[data-batch]') || !document.querySelector('#jobs .note[hidden]')")
    return page


def choose(page: Any, name: str, content: bytes) -> None:
    page.set_input_files("#job-file", {"name": name, "mimeType": "application/jsonl", "buffer": content})


def until_said(page: Any, words: str) -> None:
    until(page, f"document.querySelector('.served-row .panel-lead')?.textContent === '{words}'")


def test_a_job_is_added_and_followed_to_its_end(page, fake) -> None:
    opened(page)
    assert "The queue has no batches." in page.inner_text("#jobs")
    choose(page, "night.jsonl", lines_of(*"abcd"))
    until(page, "document.querySelector('#job-endpoint').value === '/v1/completions'")
    page.click(".job-form summary")
    page.select_option("#job-model", "two")
    page.fill("#job-priority", "3")
    page.fill("#job-quiet", "22:00-07:00")
    page.press("#job-quiet", "Enter")
    page.wait_for_selector("text=0 of 4 done")
    (body,) = fake.jobs.asked
    assert fake.jobs.files[body.pop("input_file_id")] == ("night.jsonl", lines_of(*"abcd"))
    assert body == {"endpoint": "/v1/completions", "completion_window": "24h", "model": "two", "priority": 3,
                    "quiet_hours": "22:00-07:00"}  # fmt: skip
    assert page.inner_text("#status") == "night.jsonl was added, 4 lines"
    row = page.locator(".served-row[data-batch]")
    assert row.locator("h2").inner_text() == "night.jsonl" and row.locator(".state").inner_text() == "running"
    (batch,) = fake.jobs.batches
    fake.jobs.step(batch, 2, left_s=250.0)
    until_said(page, "2 of 4 done, about 4 min of work left")
    assert row.locator("progress").evaluate("one => [one.value, one.max]") == [2, 4]
    assert row.locator("a").count() == 0
    fake.jobs.step(batch, 3, failed=1)
    until_said(page, "4 of 4 done, 1 of them failed")
    assert row.locator(".state").inner_text() == "completed" and row.locator("button:visible").all_inner_texts() == [
        "Remove"
    ]
    assert page.inner_text("#status") == "night.jsonl: completed, 4 of 4 done, 1 of them failed"
    for label, content, file in (("Output file", b'{"custom_id": "a"}\n', "night-output.jsonl"),
                                 ("Error file", b'{"custom_id": "b"}\n', "night-errors.jsonl")):  # fmt: skip
        with page.expect_download() as taken:
            page.get_by_role("link", name=f"{label} of night.jsonl").click()
        assert taken.value.suggested_filename == file and Path(taken.value.path()).read_bytes() == content


def test_one_that_runs_is_followed_behind_the_chat(page, fake) -> None:
    batch = fake.jobs.add("long.jsonl", 2)
    opened(page)
    page.click("#tab-chat")
    fake.jobs.step(batch, 2)
    until(page, "document.querySelector('#status').textContent === 'long.jsonl: completed, 2 of 2 done'")


def test_files_with_a_key(page, fake) -> None:
    batch = fake.jobs.add("night.jsonl", 1)
    fake.jobs.step(batch, 1)
    fake.key = "secret"
    page.reload()
    page.wait_for_selector("dialog.settings")
    page.fill("#set-key", "secret")
    page.press("#set-key", "Enter")
    page.wait_for_selector("#tab-jobs:visible")
    opened(page)
    with page.expect_download() as taken:
        page.get_by_role("link", name="Output file").click()
    assert Path(taken.value.path()).read_bytes() == b'{"custom_id": "a"}\n'
    fake.key = "another"
    page.get_by_role("link", name="Output file").click()
    problem = page.locator(".served-row [role=alert]")
    problem.wait_for()
    assert "API key" in problem.inner_text()


def test_a_job_is_cancelled_by_keys(page, fake) -> None:
    fake.jobs.add("long.jsonl", 100)
    opened(page)
    button = page.get_by_role("button", name="Cancel long.jsonl")
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.confirm")
    page.keyboard.press("Enter")  # Go on
    assert fake.jobs.batches[0]["status"] == "in_progress"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "End it"
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.served-row .state').textContent === 'cancelled'")
    assert page.inner_text("#status") == "long.jsonl: cancelled, 0 of 100 done"
    assert page.evaluate("document.activeElement.textContent") == "long.jsonl", "the focus does not fall off the page"


def test_one_that_has_ended_is_removed_by_keys(page, fake) -> None:
    for name in ("first.jsonl", "second.jsonl"):
        fake.jobs.add(name, 3)["status"] = "cancelled"
    opened(page)
    button = page.get_by_role("button", name="Remove second.jsonl")
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.confirm")
    page.keyboard.press("Enter")  # Keep it
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Remove it" and len(fake.jobs.batches) == 2
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.served-row').length === 1")
    assert page.inner_text("#status") == "second.jsonl was removed"
    assert page.evaluate("document.activeElement.textContent") == "first.jsonl", "the focus does not fall off the page"
    page.get_by_role("button", name="Remove first.jsonl").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.confirm")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.served-row').length === 0")
    assert page.evaluate("document.activeElement.id") == "job-file", "no other batch can have it"


def test_what_is_wrong_is_said_in_words(page, fake) -> None:
    opened(page)
    page.click(".job-form [type=submit]")
    assert page.inner_text(".job-form [role=alert]") == "Choose a file first."
    assert page.evaluate("document.activeElement.id") == "job-file"
    choose(page, "in.jsonl", lines_of("a"))
    page.click(".job-form summary")
    page.fill("#job-priority", "high")
    page.click(".job-form summary")
    page.click(".job-form [type=submit]")
    assert page.inner_text(".job-form [role=alert]") == "Priority: high is not a whole number."
    page.fill("#job-priority", "")
    page.fill("#job-quiet", "never")
    page.click(".job-form [type=submit]")
    until(page, "document.querySelector('.job-form [role=alert]').textContent.includes('never')")
    until(page, "!document.querySelector('.job-form [aria-disabled]')")
    assert fake.jobs.removed == [fake.jobs.asked[-1]["input_file_id"]] and fake.jobs.batches == []
    page.fill("#job-quiet", "")
    choose(page, "bad.jsonl", b"{}\nno\n")
    page.click(".job-form [type=submit]")
    page.wait_for_selector(".served-row li")
    told = page.locator(".served-row li").all_inner_texts()
    assert told[0] == "Line 2: is no JSON: <img src=x onerror=alert(1)>" and told[-1] == "and 2 more"
    assert page.locator(".served-row .state").inner_text() == "failed" and page.locator("#jobs img").count() == 0
    assert "makes no batch" in page.inner_text("#status")


def test_pauses_models_and_older_batches(page, fake) -> None:
    for number in range(25):
        fake.jobs.step(fake.jobs.add(f"old{number}.jsonl", 1), 1)
    models = [{"model": name, "total": 2, "completed": done, "failed": 0} for name, done in (("one", 2), ("two", 1))]
    fake.jobs.add("now.jsonl", 4, wavefold={"paused": "the disk is full", "quiet_hours": "22:00-07:00", "priority": -1,
                                            "models": models})  # fmt: skip
    opened(page)
    first = page.locator(".served-row").first.inner_text()
    for words in ("paused", "It does not go on: the disk is full", "22:00-07:00", "-1", "one 2 of 2, two 1 of 2"):
        assert words in first
    assert page.locator(".served-row").count() == 20
    page.click("text=Older batches")
    until(page, "document.querySelectorAll('.served-row').length === 26")
    assert page.is_hidden("text=Older batches")
