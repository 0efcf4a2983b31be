"""`wavefold serve` as a process: flags, an answer, SIGTERM, what it says without its packages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from wavefold.cli.main import main

COMMAND = [sys.executable, "-m", "wavefold", "serve"]


def test_it_answers_until_sigterm(tmp_path: Path) -> None:
    """The exit code is 0, and what was read is on the disk for the next one."""
    hits = []
    for _ in range(2):
        command = [*COMMAND, "--port", "0", "--threads", "1", "--name", "small", "--cache-dir", str(tmp_path / "cache"),
                   "--snapshot-every", "256"]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            place = re.search(r"served as small at (http://127\.0\.0\.1:\d+)", first)
            assert place is not None, first
            body = {"model": "small", "prompt": "import os\n" * 200, "max_tokens": 4, "temperature": 0}
            request = urllib.request.Request(f"{place[1]}/v1/completions", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["usage"]["completion_tokens"] == 4
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=60)
            assert process.returncode == 0, rest
        finally:
            process.kill()
            process.communicate()
        line = json.loads(rest.splitlines()[0])
        assert line["path"] == "/v1/completions" and "import" not in rest
        hits.append(line["hit_on_disk"])
    assert hits[0] == 0 and hits[1] >= 128


def test_a_second_signal_ends_a_stream_in_words() -> None:
    """Its client is told why, and the log has lines of JSON alone."""
    process = subprocess.Popen([*COMMAND, "--port", "0", "--threads", "1"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        place = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
        assert place is not None
        body = {"model": "wavefold", "prompt": "a", "max_tokens": 60_000, "stream": True, "logit_bias": {"1": -100}}
        with urllib.request.urlopen(f"{place[0]}/v1/completions", json.dumps(body).encode(), timeout=60) as stream:
            stream.readline()
            process.send_signal(signal.SIGTERM)
            for _ in range(20):
                stream.readline()
            process.send_signal(signal.SIGTERM)
            assert b"the server is shutting down" in stream.read()
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0 and [json.loads(line)["finish"] for line in rest.splitlines()] == ["error"]


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret\n")
    for arguments, message in (
        (["--port", "70000"], "--port 70000 is not allowed"), (["--max-queue", "-1"], "--max-queue -1 is not allowed"),
        (["--max-body", "2G"], "expected 1 to 1G"), (["--drain-seconds", "nan"], "--drain-seconds nan is not allowed"),
        (["--api-key-file", str(tmp_path / "none")], "/none: No such file or directory; expected a file that"),
        (["--api-key-file", str(tmp_path / "keys")], "line 1 is not allowed"),
        (["--cache-dir", str(tmp_path / "keys"), "--port", "0"], "is a file; expected a folder"),
        (["--host", "256.1.1.1", "--port", "0"], "cannot be listened to"),
        (["nowhere", "--port", "0"], "nowhere"), (["--width", "0", "--port", "0"], "--width 0 is not allowed"),
        (["--profile", "v9", "--port", "0"], "v9"),
    ):  # fmt: skip
        assert main(["serve", *arguments]) == 2
        assert message in (said := capsys.readouterr().err) and "secret" not in said


def test_a_key_is_shown_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", "--new-api-key", str(tmp_path / "keys")]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("wf-") and len(key) > 40 and key not in (tmp_path / "keys").read_text()


@pytest.mark.parametrize("package", ["starlette", "deepseek_recipe"])
def test_without_a_package_it_says_how_to_get_it(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; from wavefold.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, "serve", "--port", "0"], capture_output=True, text=True,
                          env={**os.environ, "WAVEFOLD_TUNING": "usual"}, timeout=60)  # fmt: skip
    assert done.returncode == 2 and "pip install 'wavefold[serve]'" in done.stderr
