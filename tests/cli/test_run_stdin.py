"""`wavefold run` without a prompt: stdin is one, its lines are, or somebody types."""

import io
import json
from pathlib import Path

import pytest

from tests.cli.running import Capture, run
from wavefold.cli import answers


class TestStdin:
    def test_is_one_prompt(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        """The line break at its end belongs to the file, not to the prompt."""
        assert run(model, "-p", "ab\n\nc\\\nd") == 0
        expected = capsys.readouterr().out
        monkeypatch.setattr("sys.stdin", io.StringIO("ab\n\nc\\\nd\n"))
        assert run(model) == 0
        out, err = capsys.readouterr()
        assert out == expected
        assert [line.split(",")[0] for line in err.splitlines()] == ["prompt 9 tokens"]

    def test_lines_are_prompts(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        """Each is completed as by -p, empty ones too: nothing is remembered."""
        for text in ("ab", "", "", "c\\"):
            assert run(model, "-p", text) == 0
        expected = capsys.readouterr().out
        monkeypatch.setattr("sys.stdin", io.StringIO("ab\n\n\nc\\\n"))
        assert run(model, "--lines") == 0
        assert capsys.readouterr().out == expected
        monkeypatch.setattr("sys.stdin", io.StringIO("ab\r\n\ncd"))
        assert run(model, "--lines", "--json") == 0
        assert [json.loads(line)["prompt_tokens"] for line in capsys.readouterr().out.splitlines()] == [3, 1, 3]

    def test_empty(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        assert run(model) == 2
        assert "stdin holds no prompt" in capsys.readouterr().err


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestInteractive:
    @pytest.fixture(autouse=True)
    def terminal(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def test_ctrl_c_stops_the_answer_alone(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        assert run(model, "-p", "b") == 0
        expected = capsys.readouterr().out
        push, calls = answers.Screen.push, 0

        def interrupted(self: answers.Screen, piece: str) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise KeyboardInterrupt
            push(self, piece)

        monkeypatch.setattr(answers.Screen, "push", interrupted)
        monkeypatch.setattr("sys.stdin", Keyboard("a\nb\n"))
        assert run(model) == 0
        out, err = capsys.readouterr()
        assert out.replace("> ", "") == "\n" + expected + "\n"
        assert ", interrupted; " in err
        assert err.splitlines()[0].startswith(f"{model}: completes what you type.")

    def test_json_needs_a_prompt(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        monkeypatch.setattr("sys.stdin", Keyboard(""))
        assert run(model, "--json") == 2
        assert "--json needs a prompt" in capsys.readouterr().err
