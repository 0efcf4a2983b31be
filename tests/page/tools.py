"""What the tests of the page need beside the package, and may lack: Node, Chromium, Playwright, axe-core."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[2] / "wavefold" / "server" / "page" / "static"
ANSWERED = ".turn.last.assistant:not(.writing) [data-act=again]"
"""The newest answer is complete."""
RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}
"""What axe-core judges: WCAG AA and its own best practice."""
NO_NODE = "Node 20.19 or newer is not installed (older ones take the page's .js files for CommonJS)"
NO_CHROMIUM = "Chromium is not installed; WAVEFOLD_CHROMIUM may name its program"
NO_AXE = "axe-core is not installed: pip install axe-playwright-python, or WAVEFOLD_AXE names its axe.min.js"


def node() -> str | None:
    """The program of a Node that takes the page's modules for what they are, or None."""
    program = shutil.which("node")
    if program is None:
        return None
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30).stdout
    found = re.match(r"v(\d+)\.(\d+)", version)
    return program if found and (int(found[1]), int(found[2])) >= (20, 19) else None


def chromium() -> str | None:
    """The program of Debian's Chromium, or of another one."""
    named = os.environ.get("WAVEFOLD_CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser")


def axe_source() -> str | None:
    """The source of axe-core (MPL-2.0), which the repository does not carry."""
    if named := os.environ.get("WAVEFOLD_AXE"):
        return Path(named).read_text(encoding="utf-8")
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        return None
    return (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def until(page: Any, expression: str, timeout_s: float = 30.0) -> None:
    """Waits until an expression holds. Playwright's own way evaluates within the page, which its policy forbids."""
    end = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression} did not hold within {timeout_s} s"
        page.wait_for_timeout(20)


def send(page: Any, text: str, wait: bool = True) -> None:
    """Types a message and sends it; waits for the answer."""
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")
    if wait:
        page.wait_for_selector(ANSWERED)


def texts(page: Any) -> list[str]:
    """What is said in the turns that are shown."""
    return [text.strip() for text in page.locator(".said, .turn-body > .prose").all_inner_texts()]


def findings(page: Any, axe: str) -> list[str]:
    """What axe-core finds wrong with the page as it is now."""
    page.evaluate(axe)
    result = page.evaluate(f"axe.run(document, {json.dumps(RULES)})")
    assert len(result["passes"]) > 10
    return [
        f"{found['impact']} {found['id']}: {node['target']} {node['failureSummary']}"
        for found in result["violations"]
        for node in found["nodes"]
    ]
