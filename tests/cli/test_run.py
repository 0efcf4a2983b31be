"""`wavefold run`: text, JSON, token files, mistakes."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.cli.running import KEYS, Capture, expected_ids, printed, run
from wavefold import load, locate
from wavefold.chat import Tokenizer
from wavefold.cli import answers
from wavefold.cli.main import main


class TestPrompt:
    def test_streams_text(self, model: Path, capsys: Capture) -> None:
        tokenizer = Tokenizer.load(model)
        ids = expected_ids(model, tokenizer.encode("def f():", bos=True))
        assert run(model, "-p", "def f():") == 0
        out, err = capsys.readouterr()
        assert out == tokenizer.decode(ids, show_special=False) + "\n"
        assert err.startswith("prompt 9 tokens, ")
        assert re.search(r"; answer 4 tokens, [0-9.]+/s, ended by length; cache ", err)
        assert err.count("\n") == 1

    def test_json(self, model: Path, capsys: Capture) -> None:
        tokenizer = Tokenizer.load(model)
        ids = expected_ids(model, tokenizer.encode("a", bos=True), "exact", temperature=0.7, top_p=0.9, seed=5)
        sampling = ["--temperature", "0.7", "--top-p", "0.9", "--seed", "5", "--arithmetic", "exact"]
        assert run(model, "-p", "a", "--json", *sampling) == 0
        values = printed(capsys)
        assert list(values) == KEYS
        assert values["tokens"] == ids
        assert values["text"] == tokenizer.decode(ids, show_special=False)
        assert (values["prompt_tokens"], values["completion_tokens"], values["finish_reason"]) == (2, 4, "length")
        stops = list(load(model, "exact").config.eos_token_ids)
        assert values["sampling"] == {
            "temperature": 0.7, "top_p": 0.9, "seed": 5, "max_tokens": 4, "stop_ids": stops
        }  # fmt: skip
        assert all(isinstance(values[key], int) and values[key] > 0 for key in ("cache_bytes", "peak_rss_bytes"))
        assert all(isinstance(values[key], float) and values[key] > 0 for key in KEYS if key.endswith("_s"))

    def test_what_is_kept_on_disk(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        """Is found by the next command, which says so in its line and in JSON."""
        prompt, disk = "0123456789" * 30, ["--cache-dir", str(tmp_path / "kept"), "--disk-cache", "1G"]
        for expected in ("", " (0 in memory, 256 on disk, 45 computed, known up to 256)"):
            assert run(model, "-p", prompt, "--temperature", "0", *(disk if expected else disk[:2])) == 0
            assert capsys.readouterr().err.startswith(f"prompt 301 tokens{expected}, ")
        found = {"cached_tokens": 0, "disk_tokens": 256, "computed_tokens": 45, "left_chain_at": 256}
        assert run(model, "-p", prompt, "--json", *disk) == 0
        assert printed(capsys).items() >= found.items()
        assert run(model, "-p", prompt, "--json", "--cache-dir", str(tmp_path / "kept"), "--disk-cache", "much") == 2
        assert "--disk-cache 'much' is not allowed; expected a size" in capsys.readouterr().err

    def test_special_tokens_in_a_prompt_are_text(self, model: Path, capsys: Capture) -> None:
        assert run(model, "-p", "<think>", "--json") == 0
        assert printed(capsys)["prompt_tokens"] == 1 + len("<think>")
        assert run(model, "-p", "<think>", "--json", "--allow-special") == 0
        assert printed(capsys)["prompt_tokens"] == 2

    def test_empty_prompt_is_bos(self, model: Path, capsys: Capture) -> None:
        assert run(model, "-p", "", "--json") == 0
        assert printed(capsys)["prompt_tokens"] == 1


class TestTokens:
    @pytest.mark.parametrize("text", ["5 6 7", "5,6,7", "[5, 6, 7]\n", " 5\n6,\t7\n"])
    def test_file(self, model: Path, tmp_path: Path, text: str, capsys: Capture) -> None:
        (tmp_path / "ids").write_text(text)
        assert run(model, "--tokens", str(tmp_path / "ids"), "--json", "--temperature", "0") == 0
        values = printed(capsys)
        assert values["tokens"] == expected_ids(model, [5, 6, 7], temperature=0)
        assert values["prompt_tokens"] == 3

    def test_stdin(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("5 6 7"))
        assert run(model, "--tokens", "-", "--json") == 0
        assert printed(capsys)["prompt_tokens"] == 3

    def test_without_a_tokenizer(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        folder = tmp_path / "model"
        shutil.copytree(model, folder)
        (folder / "tokenizer.json").unlink()
        (tmp_path / "ids").write_text("5 6 7")
        assert run(folder, "--tokens", str(tmp_path / "ids"), "--json") == 0
        values = printed(capsys)
        assert values["text"] is None
        assert run(folder, "--tokens", str(tmp_path / "ids")) == 0
        assert [int(token) for token in capsys.readouterr().out.split()] == values["tokens"]
        assert run(folder, "-p", "a") == 2
        assert "holds no tokenizer that can be used; give token ids with --tokens FILE" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("5 six", "'six' is not a token id; expected whole numbers"),
            ("[5, 6.5]", "6.5 is not a token id"),
            ("[5, true]", "True is not a token id"),
            ("[[5]]", "[5] is not a token id"),
            ("[5", "not a JSON list"),
            ("300", "token 300 is not allowed; expected 0 to 299"),
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


def test_broken_tokenizer(model: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "tokenizer.json").write_text("{}")
    assert run(folder, "-p", "a") == 2
    assert "tokenizer.json: not a tokenizer file" in capsys.readouterr().err


def test_default_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(locate, "DEFAULT_MODEL", tmp_path / "none")
    assert main(["run", "-p", "a"]) == 2
    assert "give a folder, or install again" in capsys.readouterr().err
    monkeypatch.setattr(locate, "DEFAULT_MODEL", model)
    assert main(["run", "-p", "a", "--max-tokens", "2", "--json"]) == 0
    assert len(printed(capsys)["tokens"]) == 2  # type: ignore[arg-type]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert answers.printable("a\x1b[2Jb\n\tc\x00\x7f\x9bé🙂") == "a\ufffd[2Jb\n\tc\ufffd\ufffd\ufffdé🙂"


def test_gpu_kernels_are_asked_for_by_name(model: Path, capsys: Capture) -> None:
    """They were never timed on a chip, and on a CPU there are none."""
    assert run(model, "-p", "a", "--kernels", "tilelang") == 2
    assert "--kernels tilelang is not allowed with device = cpu; expected tilelang on cuda" in capsys.readouterr().err


class TestForm:
    """Answers that are held to a form."""

    def test_a_schema(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "s.json").write_text('{"enum": ["left", "right"]}')
        assert (
            main(["run", str(model), "-p", "x", "--json-schema", str(tmp_path / "s.json"), "--draft-depth", "2"]) == 0
        )
        assert capsys.readouterr().out in ('"left"\n', '"right"\n')

    def test_a_schema_on_stdin(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO('{"enum": ["left", "right"]}'))
        assert main(["run", str(model), "-p", "x", "--json-schema", "-"]) == 0
        assert capsys.readouterr().out in ('"left"\n', '"right"\n')

    @pytest.mark.parametrize("more", [[], ["--lines"], ["--tokens", "-"]])
    def test_stdin_is_not_schema_and_prompt(self, model: Path, more: list[str], capsys: Capture) -> None:
        assert run(model, "--json-schema", "-", *more) == 2
        assert "--json-schema - reads stdin, which is the prompt; give one with -p TEXT" in capsys.readouterr().err

    def test_the_model_after_a_choice_is_the_model(self, model: Path, capsys: Capture) -> None:
        assert main(["run", "-p", "x", "--choice", "yes", "--choice", "no", str(model), "--json"]) == 0
        values = printed(capsys)
        assert values["text"] in ("yes", "no")
        assert main(["run", "-p", "x", "--choice", "yes", "nowhere"]) == 2
        assert "nowhere: no such folder" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["run", str(model), "-p", "x", "--choices", "yes", "no"])

    def test_a_rate_that_was_not_measured_is_left_out(self, model: Path, capsys: Capture) -> None:
        """Of one token, and of an answer whose other tokens had no alternative."""
        for more in (["--max-tokens", "1"], ["--choice", "a long one"]):
            assert main(["run", str(model), "-p", "x", *more, "--json"]) == 0
            values = printed(capsys)
            assert values["decode_tokens_per_s"] is None and values["decode_s"] == 0
            assert values["completion_tokens"] == len(values["tokens"])  # type: ignore[arg-type]
            assert main(["run", str(model), "-p", "x", *more]) == 0
            assert re.search(r"; answer [0-9]+ tokens, ended by (length|stop); ", capsys.readouterr().err)

    def test_expressions_and_choices(self, model: Path, capsys: Capture) -> None:
        assert main(["run", str(model), "-p", "x", "--regex", "a{3}b"]) == 0
        assert capsys.readouterr().out == "aaab\n"
        assert main(["run", str(model), "-p", "x", "--choice", "one", "--choice", "two", "--json"]) == 0
        values = printed(capsys)
        assert values["text"] in ("one", "two")
        assert values["sampling"]["constraint"] == {
            "kind": "choices", "text": '["one", "two"]', "after_thinking": False
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--json-schema", "missing.json"], "--json-schema missing.json: .*expected a file with a JSON schema"),
            (["--regex", "("], r"regex \( is not allowed"),
            (
                ["--json-schema", "bad.json"],
                "--json-schema bad.json: not JSON .*line 1 column 2.*; expected a JSON schema",
            ),
            (["--json-schema", ""], "--json-schema : .*expected a file with a JSON schema"),
            (["--regex", "a", "--choice", "b"], "not allowed with argument --regex"),
            (["--choice", ""], r"choices = \[''\] is not allowed; expected texts of one character or more"),
            (["--draft-depth", "200"], "draft_depth = 200 is not allowed"),
        ],
    )
    def test_mistakes(
        self, model: Path, flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: Capture,
    ) -> None:  # fmt: skip
        (tmp_path / "bad.json").write_text("{]")
        monkeypatch.chdir(tmp_path)
        with contextlib.suppress(SystemExit):
            assert main(["run", str(model), "-p", "x", *flags]) == 2
        assert re.search(message, capsys.readouterr().err)
