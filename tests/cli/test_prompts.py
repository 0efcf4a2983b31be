"""Prompts that are typed, and the history of them."""

import os
import stat
from pathlib import Path

import pytest

from tests.cli.running import Capture
from wavefold.cli import prompts


class TestPrompts:
    def read(self, *lines: str | BaseException | type[BaseException]) -> tuple[list[str | None], list[str]]:
        """The prompts that come of typing `lines`, and what was asked."""
        left, asked = list(lines), []

        def ask(prompt: str) -> str:
            asked.append(prompt)
            line = left.pop(0) if left else EOFError
            if isinstance(line, str):
                return line
            raise line

        read: list[str | None] = []
        while not read or read[-1] is not None:
            read.append(prompts.read(ask))
        return read, asked

    def test_lines(self) -> None:
        assert self.read("a", "b") == (["a", "b", None], ["> "] * 3)

    def test_backslash_continues(self) -> None:
        assert self.read("a\\", "  b\\", "c", "d") == (["a\n  b\nc", "d", None], ["> ", "... ", "... ", "> ", "> "])

    def test_empty_line_ends(self) -> None:
        assert self.read("a\\", "", "", "b")[0] == ["a", "b", None]

    def test_end_of_input_ends(self) -> None:
        assert self.read("a\\")[0] == ["a", None]

    def test_ctrl_c_drops_what_was_typed(self, capsys: Capture) -> None:
        assert self.read("a\\", KeyboardInterrupt, "b")[0] == ["b", None]

    def test_bytes_that_are_no_text_are_dropped(self, capsys: Capture) -> None:
        error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        assert self.read("a\\", error, "b")[0] == ["b", None]
        assert "not UTF-8" in capsys.readouterr().err


class TestHistory:
    def test_private_and_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        readline = pytest.importorskip("readline")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        readline.clear_history()
        old = os.umask(0)
        try:
            with prompts.history():
                readline.add_history("a secret")
        finally:
            os.umask(old)
        path = tmp_path / "cache" / "wavefold" / "history"
        assert path == prompts.history_path()
        assert path.read_text() == "a secret\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        readline.clear_history()
        with prompts.history():
            assert readline.get_history_item(1) == "a secret"
        readline.clear_history()

    def test_no_place_for_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A history that cannot be kept is no reason not to answer."""
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with prompts.history():
            pass

    def test_default_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert prompts.history_path() == Path.home() / ".cache" / "wavefold" / "history"
