"""The page's modules that need no browser, in Node: tests/page/js has the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.page.tools import NO_NODE, STATIC, node

TESTS = sorted((Path(__file__).parent / "js").glob("*.test.mjs"))
NODE = node()


@pytest.mark.skipif(NODE is None, reason=NO_NODE)
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name.removesuffix(".test.mjs"))
def test_modules(path: Path) -> None:
    command = [str(NODE), "--test", "--test-reporter=spec", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PAGE": STATIC.as_uri()}
    )
    assert done.returncode == 0, done.stdout + done.stderr
