"""The page's files: complete, of this server alone, and served with a strict policy."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette", reason="starlette is not installed: pip install wavefold[serve]")
from tests.page.tools import STATIC
from wavefold.server.page.files import POLICY, page_files, page_response, page_routes

SCRIPTS = sorted(STATIC.glob("*.js"))
FORBIDDEN = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser",
             "createContextualFragment", "srcdoc", "setAttribute(\"style\"", "javascript:", "import(")  # fmt: skip


def without_comments(source: str) -> str:
    return re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_html_and_are_short(path) -> None:
    source = path.read_text(encoding="utf-8")
    assert [name for name in FORBIDDEN if name in without_comments(source)] == []
    assert len(source.splitlines()) <= 400
    assert source.startswith("/**"), "a module begins with what it is"


def test_imports_lead_to_files_and_are_used() -> None:
    for path in SCRIPTS:
        source = path.read_text(encoding="utf-8")
        for names, target in re.findall(r'^import \{([^}]*)\} from "\./([\w.]+)";', source, re.MULTILINE):
            exported = (STATIC / target).read_text(encoding="utf-8")
            for name in (name.strip() for name in names.split(",")):
                assert re.search(rf"export (async )?(const|function|class) {name}\b", exported), f"{path.name}: {name}"
                assert len(re.findall(rf"\b{name}\b", source)) > 1, f"{path.name} does not use {name}"
        assert source.count("import {") == len(re.findall(r'^import \{[^}]*\} from "\./', source, re.MULTILINE))


def test_index_asks_for_nothing_from_elsewhere() -> None:
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    targets = re.findall(r'(?:src|href)="([^"]+)"', index)
    for target in targets:
        address = urlsplit(target)
        assert not address.scheme and not address.netloc, target
        assert target.startswith("#") or target.removeprefix("page/") in page_files(), target
    assert not re.search(r"<script(?! type=\"module\" src=)|<style| on\w+=| style=", index)


def test_style_sheets_fetch_nothing() -> None:
    for path in STATIC.glob("*.css"):
        assert not re.search(r"url\(|@import", path.read_text(encoding="utf-8")), path.name


def test_dark_is_the_same_by_choice_and_by_the_system() -> None:
    """Both blocks stand in the sheet: a query cannot share one with a selector."""
    text = (STATIC / "base.css").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:\[data-theme=\"dark\"\]|:not\(\[data-theme\]\)) \{(.*?)\}", text, re.DOTALL)
    chosen, by_system = ([line.strip() for line in block.strip().splitlines()] for block in blocks)
    assert chosen == by_system and len(chosen) > 15


def test_every_script_is_reached_from_the_index() -> None:
    reached, waiting = set(), ["main.js"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += re.findall(r'from "\./([\w.]+)"', (STATIC / name).read_text(encoding="utf-8"))
    assert reached == {path.name for path in SCRIPTS}


def test_responses() -> None:
    for name, file in page_files().items():
        response = page_response(name)
        assert (response.status_code, response.body) == (200, (STATIC / name).read_bytes())
        assert response.headers["content-security-policy"] == POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-cache"
        again = page_response(name, file.headers["ETag"])
        assert (again.status_code, again.body) == (304, b"")
        assert again.headers["etag"] == file.headers["ETag"]
        assert page_response(name, '"other", W/' + file.headers["ETag"]).status_code == 304
        assert page_response(name, '"other"').status_code == 200
    types = {name: file.headers["Content-Type"].split(";")[0] for name, file in page_files().items()}
    assert {types[name] for name in types if name.endswith(".js")} == {"text/javascript"}
    assert types["index.html"] == "text/html"


@pytest.mark.parametrize("name", ["", "none.js", "../files.py", "..", "index.html\0", "/etc/passwd", "INDEX.HTML"])
def test_other_names_are_not_found(name) -> None:
    response = page_response(name)
    assert response.status_code == 404
    assert response.headers["content-security-policy"] == POLICY


def test_policy_allows_this_server_alone() -> None:
    sources = [directive.split() for directive in POLICY.split("; ")]
    assert {value for _, *values in sources for value in values} == {"'none'", "'self'", "'script'"}
    assert [route.path for route in page_routes()] == ["/", "/page/{name}"]
