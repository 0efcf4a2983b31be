"""`wavefold run`: text, JSON, token files, and prompts that are typed."""

import io
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wavefold import load
from wavefold.chat import Tokenizer
from wavefold.cli import prompts
from wavefold.cli import run as command
from wavefold.cli.main import main
from wavefold.engine import generate

Capture = pytest.CaptureFixture[str]
KEYS = ["text", "tokens", "prompt_tokens", "prefill_s", "decode_s", "decode_tokens_per_s", "cache_bytes",
        "peak_rss_bytes", "prefill_tokens_per_s", "weight_bytes"]  # fmt: skip


def run(model: Path, *more: str) -> int:
    return main(["run", str(model), "--max-tokens", "4", *more])


def facts(capsys: Capture) -> dict[str, object]:
    """The one line of JSON on stdout."""
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith("}\n")
    assert out.count("\n") == 1
    return json.loads(out)  # type: ignore[no-any-return]


def expected_ids(model: Path, tokens: list[int], arithmetic: str = "released", **sampling: float) -> list[int]:
    return list(generate(load(model, arithmetic), tokens, 4, **sampling))  # type: ignore[arg-type]


class TestPrompt:
    def test_streams_text(self, model: Path, capsys: Capture) -> None:
        tokenizer = Tokenizer.load(model)
        ids = expected_ids(model, tokenizer.encode("def f():", bos=True))
        assert run(model, "-p", "def f():") == 0
        out, err = capsys.readouterr()
        assert out == tokenizer.decode(ids) + "\n"
        assert err.startswith("prompt 9 tokens, ")
        assert " tokens/s; cache " in err
        assert err.count("\n") == 1

    def test_json(self, model: Path, capsys: Capture) -> None:
        tokenizer = Tokenizer.load(model)
        ids = expected_ids(model, tokenizer.encode("a", bos=True), "exact", temperature=0.7, top_p=0.9, seed=5)
        sampling = ["--temperature", "0.7", "--top-p", "0.9", "--seed", "5", "--arithmetic", "exact"]
        assert run(model, "-p", "a", "--json", *sampling) == 0
        values = facts(capsys)
        assert list(values) == KEYS
        assert values["tokens"] == ids
        assert values["text"] == tokenizer.decode(ids)
        assert values["prompt_tokens"] == 2
        assert all(isinstance(values[key], int) and values[key] > 0 for key in ("cache_bytes", "peak_rss_bytes"))
        assert all(isinstance(values[key], float) and values[key] > 0 for key in KEYS if key.endswith("_s"))

    def test_special_tokens_in_a_prompt_are_text(self, model: Path, capsys: Capture) -> None:
        assert run(model, "-p", "<think>", "--json") == 0
        assert facts(capsys)["prompt_tokens"] == 1 + len("<think>")

    def test_empty_prompt_is_bos(self, model: Path, capsys: Capture) -> None:
        assert run(model, "-p", "", "--json") == 0
        assert facts(capsys)["prompt_tokens"] == 1


class TestTokens:
    @pytest.mark.parametrize("text", ["5 6 7", "5,6,7", "[5, 6, 7]\n", " 5\n6,\t7\n"])
    def test_file(self, model: Path, tmp_path: Path, text: str, capsys: Capture) -> None:
        (tmp_path / "ids").write_text(text)
        assert run(model, "--tokens", str(tmp_path / "ids"), "--json", "--temperature", "0") == 0
        values = facts(capsys)
        assert values["tokens"] == expected_ids(model, [5, 6, 7], temperature=0)
        assert values["prompt_tokens"] == 3

    def test_stdin(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("5 6 7"))
        assert run(model, "--tokens", "-", "--json") == 0
        assert facts(capsys)["prompt_tokens"] == 3

    def test_without_a_tokenizer(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        folder = tmp_path / "model"
        shutil.copytree(model, folder)
        (folder / "tokenizer.json").unlink()
        (tmp_path / "ids").write_text("5 6 7")
        assert run(folder, "--tokens", str(tmp_path / "ids"), "--json") == 0
        values = facts(capsys)
        assert values["text"] is None
        assert run(folder, "--tokens", str(tmp_path / "ids")) == 0
        assert [int(token) for token in capsys.readouterr().out.split()] == values["tokens"]
        assert run(folder, "-p", "a") == 2
        assert "holds no tokenizer.json; give token ids with --tokens FILE" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("5 six", "'six' is not a token id; expected whole numbers"),
            ("[5, 6.5]", "6.5 is not a token id"),
            ("[5, true]", "True is not a token id"),
            ("[[5]]", "[5] is not a token id"),
            ("[5", "not a JSON list"),
            ("300", "tokens between 300 and 300 are not allowed; expected 0 to 299"),
            ("", "the prompt has no tokens"),
            ("[]", "the prompt has no tokens"),
        ],
    )
    def test_unusable(self, model: Path, tmp_path: Path, text: str, message: str, capsys: Capture) -> None:
        (tmp_path / "ids").write_text(text)
        assert run(model, "--tokens", str(tmp_path / "ids")) == 2
        assert message in capsys.readouterr().err

    def test_absent(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        assert run(model, "--tokens", str(tmp_path / "nowhere")) == 2
        assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--temperature", "-1"], "temperature = -1.0 is not allowed"),
        (["--top-p", "2"], "top_p = 2.0 is not allowed"),
        (["--max-tokens", "0"], "max_tokens = 0 is not allowed"),
        (["--max-tokens", "2000000"], "max_position_embeddings = 1048576"),
        (["--seed", "-1"], "seed = -1 is not allowed"),
        (["--threads", "0"], "--threads 0 is not allowed; expected 1 or more"),
        (["--device", "abacus"], "--device abacus cannot be used: Expected one of cpu, cuda"),
        (["--dtype", "float32"], "dtype = torch.float32 is not allowed with released arithmetic"),
    ],
)
def test_mistakes(model: Path, more: list[str], message: str, capsys: Capture) -> None:
    assert run(model, "-p", "a", *more) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("wavefold: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_threads_and_dtype(model: Path, capsys: Capture) -> None:
    before = torch.get_num_threads()
    try:
        assert run(model, "-p", "a", "--threads", "1", "--arithmetic", "exact", "--dtype", "bfloat16", "--json") == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_no_such_model(tmp_path: Path, capsys: Capture) -> None:
    assert run(tmp_path / "nowhere", "-p", "a") == 2
    assert "no such file; expected an official config.json" in capsys.readouterr().err


def test_broken_tokenizer(model: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "tokenizer.json").write_text("{}")
    assert run(folder, "-p", "a") == 2
    assert "tokenizer.json: not a tokenizer file" in capsys.readouterr().err


def test_default_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(command, "DEFAULT_MODEL", tmp_path / "none")
    assert main(["run", "-p", "a"]) == 2
    assert "give a folder, or install again" in capsys.readouterr().err
    monkeypatch.setattr(command, "DEFAULT_MODEL", model)
    assert main(["run", "-p", "a", "--max-tokens", "2", "--json"]) == 0
    assert len(facts(capsys)["tokens"]) == 2  # type: ignore[arg-type]


class TestInteractive:
    def test_prompts_from_a_pipe(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        """Each is completed as by -p: nothing is remembered."""
        for text in ("ab", "c\nd"):
            assert run(model, "-p", text) == 0
        expected = capsys.readouterr().out
        monkeypatch.setattr("sys.stdin", io.StringIO("ab\n\n\nc\\\nd\n"))
        assert run(model) == 0
        out, err = capsys.readouterr()
        assert out == expected
        assert [line.split(",")[0] for line in err.splitlines()] == ["prompt 3 tokens", "prompt 4 tokens"]

    def test_ctrl_c_stops_the_answer_alone(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        assert run(model, "-p", "b") == 0
        expected = capsys.readouterr().out
        write, calls = command.Session.write, 0

        def interrupted(self: command.Session, *args: object) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise KeyboardInterrupt
            write(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(command.Session, "write", interrupted)
        monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
        assert run(model) == 0
        assert capsys.readouterr().out == "\n" + expected

    def test_json_needs_a_prompt(self, model: Path, capsys: Capture) -> None:
        assert run(model, "--json") == 2
        assert "--json needs a prompt" in capsys.readouterr().err


class TestPrompts:
    def read(self, *lines: str | type[BaseException]) -> tuple[list[str | None], list[str]]:
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


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert command.printable("a\x1b[2Jb\n\tc\x00\x7f\x9bé🙂") == "a\ufffd[2Jb\n\tc\ufffd\ufffd\ufffdé🙂"


def test_peak_memory() -> None:
    """In a process of its own, where it starts small."""
    script = (
        "from wavefold.system import peak_rss_bytes\n"
        "before = peak_rss_bytes()\n"
        "block = b'x' * 100_000_000\n"
        "del block\n"
        "print(before, peak_rss_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 5_000_000 < before < 100_000_000
    assert 95_000_000 < after - before < 110_000_000
