"""The page before `wavefold serve --models DIR --jobs DIR` with room for one of its two models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install wavefold[serve]")
pytest.importorskip("deepseek_recipe", reason="deepseek-recipe is not installed: pip install wavefold[serve]")
pytest.importorskip("python_multipart", reason="python-multipart is not installed: pip install wavefold[serve]")
pytest.importorskip("playwright", reason="Playwright is not installed: pip install playwright")

from tests.page.fake_jobs import lines_of
from tests.page.serving_many import serving_many, two_models
from tests.page.tools import NO_AXE, axe_source, findings, send, until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "models").mkdir()
    with serving_many(two_models(folder / "models"), folder / "jobs") as address:
        yield address


@pytest.fixture
def address(served: str) -> str:
    """In place of the fake server's."""
    return served


def states(page: Any) -> list[str]:
    return page.locator("#models .served-row").evaluate_all("rows => rows.map((row) => row.dataset.state)")


def until_states(page: Any, one: str, two: str) -> None:
    until(page, f"""[...document.querySelectorAll("#models .served-row")].map((row) => row.dataset.state).join()
                    === "{one},{two}" """)  # fmt: skip


def opened(page: Any, name: str) -> Any:
    page.wait_for_selector(f"#tab-{name}:visible")
    page.click(f"#tab-{name}")
    return page


def test_load_unload_and_a_swap(page) -> None:
    opened(page, "models")
    page.wait_for_selector(".served-row")
    page.evaluate(
        """(() => {
            window.seen = [];
            const look = () => document.querySelectorAll("#models .served-row").forEach((row) =>
                window.seen.push(`${row.dataset.model} ${row.dataset.state}`));
            const settings = { subtree: true, attributeFilter: ["data-state"] };
            new MutationObserver(look).observe(document.querySelector("#models"), settings);
        })()"""
    )
    until_states(page, "on disk", "on disk")
    page.get_by_role("button", name="Load one").click()
    until_states(page, "loaded", "on disk")
    in_memory = page.locator("[data-model=one] dd").nth(1).inner_text()
    assert "MB" in in_memory and "just now" in page.inner_text("[data-model=one]")
    page.get_by_role("button", name="Unload one").click()
    until_states(page, "on disk", "on disk")
    page.get_by_role("button", name="Load one").click()
    until_states(page, "loaded", "on disk")
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Load two").click()
    until_states(page, "on disk", "loaded")
    assert "3 loads so far" in page.inner_text("#models > div > .panel-lead")
    seen = page.evaluate("window.seen")
    assert seen[-2:] == ["one on disk", "two loaded"]


def test_a_chat_loads_its_model_and_look_inside_asks_it(page) -> None:
    until(page, "document.querySelectorAll('#model option').length === 2")
    for name, other in (("one", "two"), ("two", "one")):
        page.select_option("#model", name)
        page.keyboard.press("Alt+Shift+KeyN")
        page.keyboard.press("Alt+Shift+KeyS")
        page.fill("#set-max_tokens", "4")
        page.click("dialog [type=submit]")
        send(page, "def f(")
        with page.expect_request("**/v1/wavefold/inside") as asked:
            page.click(".turn.last [data-act=look]")
        assert asked.value.post_data_json["model"] == name
        page.wait_for_selector(".strip")
        page.wait_for_selector(".machine dd")
        opened(page, "models")
        until_states(page, *("loaded" if one == name else "on disk" for one in ("one", "two")))
        page.keyboard.press("Escape")
        page.select_option("#model", other)


def test_a_job_of_both_models_is_followed_to_its_end(page) -> None:
    opened(page, "jobs")
    lines = lines_of(*(f"def f{number}(" for number in range(10)))
    lines += lines_of("def g(").replace(b'"one"', b'"two"').replace(b'"0"', b'"last"')
    lines += lines_of("def h(").replace(b'"one"', b'"none"').replace(b'"0"', b'"wrong"')
    page.set_input_files("#job-file", {"name": "night.jsonl", "mimeType": "application/jsonl", "buffer": lines})
    page.click(".job-form [type=submit]")
    row = page.locator(".served-row[data-batch]")
    row.wait_for()
    until(page, "document.querySelector('[data-batch]').dataset.state === 'completed'", 60)
    assert row.locator(".panel-lead").inner_text() == "12 of 12 done, 1 of them failed"
    assert "one 10 of 10" in row.inner_text() and "two 1 of 1" in row.inner_text()
    results = {}
    for label, ids in (("Output file", [*map(str, range(10)), "last"]), ("Error file", ["wrong"])):
        with page.expect_download() as taken:
            page.get_by_role("link", name=label).click()
        text = Path(taken.value.path()).read_text()
        results |= {one["custom_id"]: one["response"] for one in map(json.loads, text.splitlines())}
        assert [json.loads(one)["custom_id"] for one in text.splitlines()] == ids
    assert results["last"]["body"]["model"] == "two" and results["wrong"]["status_code"] == 404


def test_a_file_that_makes_no_batch(page) -> None:
    opened(page, "jobs")
    page.set_input_files("#job-file", {"name": "bad.jsonl", "mimeType": "application/jsonl", "buffer": b'{"a": 1}\n'})
    page.click(".job-form [type=submit]")
    until(page, "document.querySelector('[data-batch]')?.dataset.state === 'failed'")
    assert page.locator("[data-batch]").first.locator("li").inner_text().startswith("Line 1: a is not known")


def test_axe_finds_nothing(page) -> None:
    axe = axe_source()
    if axe is None:
        pytest.skip(NO_AXE)
    for name in ("models", "jobs"):
        opened(page, name)
        page.wait_for_selector(f"#{name} .served-row")
        assert findings(page, axe) == []
