"""The documents: short enough to be read, and their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "findings").glob("*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def headings(document):
    """The anchors that GitHub gives to a document's headings."""
    lines = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def broken_links(document):
    links = [link for link in LINK.findall(document.read_text()) if "://" not in link]
    targets = [(link, *link.partition("#")[::2]) for link in links]
    for link, name, anchor in targets:
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in headings(target)):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    assert not list(broken_links(document))


def test_a_broken_link_is_found(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("# A heading\n[a](document.md#a-heading) [b](none.md) [c](#another) [d](https://example.org)\n")
    assert list(broken_links(document)) == ["none.md", "#another"]


def test_readme_fits_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) < 140


def test_documents_are_small_files():
    sizes = {path: path.stat().st_size for path in (ROOT / "docs").rglob("*") if path.is_file()}
    pictures = {path: size for path, size in sizes.items() if path.suffix == ".webp"}
    assert sum(sizes.values()) - sum(pictures.values()) < 390_000
    assert sum(pictures.values()) < 200_000


EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "engine.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_of_the_engine_run(example, tmp_path):
    """On the model that ships, without a warning."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) >= 2
