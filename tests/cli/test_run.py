"""`wavefold run`: text, JSON, token files, and prompts that are typed."""

import io
import json
import os
import shutil
import stat
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from wavefold import load, locate, ops
from wavefold.chat import Tokenizer
from wavefold.chat.encoding import encode_chat
from wavefold.checkpoint import init as random_checkpoint
from wavefold.cli import answers, prompts
from wavefold.cli.main import build_parser, main
from wavefold.cli.session import Session
from wavefold.config import ModelConfig
from wavefold.engine import generate
from wavefold.llm import LLM
from wavefold.ops import native

generation = import_module("wavefold.engine.generate")
Capture = pytest.CaptureFixture[str]
KEYS = ["text", "tokens", "stop_reason", "prompt_tokens", "completion_tokens", "prefill_s", "decode_s",
        "decode_tokens_per_s", "cache_bytes", "peak_rss_bytes", "prefill_tokens_per_s", "weight_bytes",
        "sampling"]  # fmt: skip


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
        assert out == tokenizer.decode(ids, show_special=False) + "\n"
        assert err.startswith("prompt 9 tokens, ")
        assert " tokens/s, ended by length; cache " in err
        assert err.count("\n") == 1

    def test_json(self, model: Path, capsys: Capture) -> None:
        tokenizer = Tokenizer.load(model)
        ids = expected_ids(model, tokenizer.encode("a", bos=True), "exact", temperature=0.7, top_p=0.9, seed=5)
        sampling = ["--temperature", "0.7", "--top-p", "0.9", "--seed", "5", "--arithmetic", "exact"]
        assert run(model, "-p", "a", "--json", *sampling) == 0
        values = facts(capsys)
        assert list(values) == KEYS
        assert values["tokens"] == ids
        assert values["text"] == tokenizer.decode(ids, show_special=False)
        assert (values["prompt_tokens"], values["completion_tokens"], values["stop_reason"]) == (2, 4, "length")
        stops = list(load(model).config.eos_token_ids)
        assert values["sampling"] == {
            "temperature": 0.7, "top_p": 0.9, "seed": 5, "max_tokens": 4, "stop_ids": stops
        }  # fmt: skip
        assert all(isinstance(values[key], int) and values[key] > 0 for key in ("cache_bytes", "peak_rss_bytes"))
        assert all(isinstance(values[key], float) and values[key] > 0 for key in KEYS if key.endswith("_s"))

    def test_special_tokens_in_a_prompt_are_text(self, model: Path, capsys: Capture) -> None:
        assert run(model, "-p", "<think>", "--json") == 0
        assert facts(capsys)["prompt_tokens"] == 1 + len("<think>")
        assert run(model, "-p", "<think>", "--json", "--allow-special") == 0
        assert facts(capsys)["prompt_tokens"] == 2

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
    assert len(facts(capsys)["tokens"]) == 2  # type: ignore[arg-type]


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
        """Each is completed as by -p: nothing is remembered."""
        for text in ("ab", "c\\"):
            assert run(model, "-p", text) == 0
        expected = capsys.readouterr().out
        monkeypatch.setattr("sys.stdin", io.StringIO("ab\n\n\nc\\\n"))
        assert run(model, "--lines") == 0
        assert capsys.readouterr().out == expected
        monkeypatch.setattr("sys.stdin", io.StringIO("ab\r\ncd"))
        assert run(model, "--lines", "--json") == 0
        assert [json.loads(line)["prompt_tokens"] for line in capsys.readouterr().out.splitlines()] == [3, 3]

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
        assert "ended by interrupted" in err
        assert err.splitlines()[0].startswith(f"{model}: completes what you type.")

    def test_json_needs_a_prompt(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        monkeypatch.setattr("sys.stdin", Keyboard(""))
        assert run(model, "--json") == 2
        assert "--json needs a prompt" in capsys.readouterr().err


class TestChat:
    def test_message_is_encoded(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        seen = self.prompts_of(monkeypatch)
        assert run(model, "--chat", "-p", "hi<｜User｜>", "--system", "Be brief.", "--json") == 0
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi<｜User｜>"}]
        assert seen == [encode_chat(Tokenizer.load(model), messages).ids]
        assert facts(capsys)["prompt_tokens"] == len(seen[0])

    def test_history_is_kept(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        seen = self.prompts_of(monkeypatch)
        monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
        assert run(model, "--chat", "--lines", "--json") == 0
        first, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
        messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": first["text"]},
                    {"role": "user", "content": "two"}]  # fmt: skip
        assert seen[1] == encode_chat(Tokenizer.load(model), messages).ids

    def test_a_next_turn_ends_the_answer(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        user = Tokenizer.load(model).token_id("<｜User｜>")
        monkeypatch.setattr(generation, "sample", lambda *args: torch.tensor([user]))
        assert run(model, "--chat", "-p", "hi", "--json") == 0
        values = facts(capsys)
        assert (values["stop_reason"], values["tokens"]) == ("stop", [])
        assert run(model, "-p", "hi", "--json") == 0
        assert facts(capsys)["stop_reason"] == "length", "markers end nothing outside a chat"

    def test_tokenizer_without_markers(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        folder = tmp_path / "model"
        shutil.copytree(model, folder)
        path = folder / "tokenizer.json"
        path.write_text(path.read_text().replace("<｜Assistant｜>", "<other>"))
        assert run(folder, "--chat", "-p", "hi") == 2
        assert "--chat needs the token '<｜Assistant｜>', which the model's tokenizer lacks" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--system", "x", "-p", "hi"], "--system is a chat's"),
            (["--chat", "--tokens", "x"], "--tokens are run as they are"),
            (["--chat", "--allow-special", "-p", "hi"], "--allow-special is for completions"),
        ],
    )
    def test_flags_that_do_not_go_together(self, model: Path, flags: list[str], message: str, capsys: Capture) -> None:
        assert run(model, *flags) == 2
        assert message in capsys.readouterr().err

    def prompts_of(self, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
        """The ids that are run from now on."""
        seen: list[list[int]] = []
        stream = LLM.stream

        def watched(self: LLM, prompt, *more):  # type: ignore[no-untyped-def]
            seen.append(prompt.ids)
            return stream(self, prompt, *more)

        monkeypatch.setattr(LLM, "stream", watched)
        return seen


class TestEnd:
    """How an answer ended."""

    @pytest.fixture
    def narrow(self, model: Path, tmp_path: Path) -> Path:
        """The model with a window of 16 tokens."""
        folder = tmp_path / "narrow"
        shutil.copytree(model, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16}))
        return folder

    def test_eos(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        eos = load(model).config.eos_token_ids[0]
        monkeypatch.setattr(generation, "sample", lambda *args: torch.tensor([eos]))
        assert run(model, "-p", "hi", "--json") == 0
        values = facts(capsys)
        assert (values["stop_reason"], values["completion_tokens"]) == ("eos", 0)

    def test_default_length_fits_the_window(self, narrow: Path, capsys: Capture) -> None:
        assert main(["run", str(narrow), "-p", "abc", "--json"]) == 0
        out, err = capsys.readouterr()
        values = json.loads(out)
        assert (values["stop_reason"], values["completion_tokens"]) == ("context", 13)
        assert err == ("wavefold: the answer ended because the context window is full: max_position_embeddings = 16\n")

    def test_length_that_is_asked_for_is_refused_beyond_the_window(self, narrow: Path, capsys: Capture) -> None:
        assert main(["run", str(narrow), "-p", "abc", "--max-tokens", "14"]) == 2
        assert "max_position_embeddings = 16" in capsys.readouterr().err
        assert main(["run", str(narrow), "-p", "abc", "--max-tokens", "13", "--json"]) == 0
        assert facts(capsys)["stop_reason"] == "length"

    def test_prompt_beyond_the_window_is_refused(self, narrow: Path, capsys: Capture) -> None:
        assert main(["run", str(narrow), "-p", "abcdefghijklmnopqr"]) == 2
        assert "19 prompt tokens" in capsys.readouterr().err

    def test_special_tokens_are_not_printed_unasked(
        self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        tokenizer = Tokenizer.load(model)
        ids = tokenizer.encode("a<｜User｜><think>b", allow_special=True)
        monkeypatch.setattr(generation, "sample", lambda *args: torch.tensor([left.pop(0)]))
        for flags, text in (([], "a<think>b"), (["--show-special"], "a<｜User｜><think>b")):
            left = list(ids)
            assert run(model, "-p", "hi", *flags) == 0
            assert capsys.readouterr().out == text + "\n"
            left = list(ids)
            assert run(model, "-p", "hi", "--json", *flags) == 0
            values = facts(capsys)
            assert (values["text"], values["tokens"]) == (text, ids)


class TestGenerationConfig:
    def answer(self, model: Path, folder: Path, config: dict[str, object], capsys: Capture, *flags: str):  # type: ignore[no-untyped-def]
        """The facts of an answer of the model with this generation_config.json, and what stderr says."""
        shutil.copytree(model, folder, dirs_exist_ok=True)
        (folder / "generation_config.json").write_text(json.dumps(config))
        assert main(["run", str(folder), "-p", "a", "--json", *flags]) == 0
        out, err = capsys.readouterr()
        return json.loads(out), err

    def test_gives_the_defaults(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        config = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 3, "do_sample": True, "eos_token_id": [1, 7],
                  "bos_token_id": 0, "_from_model_config": True, "transformers_version": "4.46.3", "top_k": None,
                  "repetition_penalty": 1.0}  # fmt: skip
        values, err = self.answer(model, tmp_path / "m", config, capsys)
        stops = list(dict.fromkeys((*load(model).config.eos_token_ids, 1, 7)))
        assert values["sampling"] == {
            "temperature": 0.6, "top_p": 0.95, "seed": 0, "max_tokens": 3, "stop_ids": stops
        }  # fmt: skip
        assert err == ""
        flags = ("--temperature", "0.2", "--top-p", "0.5", "--max-tokens", "2")
        values, _ = self.answer(model, tmp_path / "m", config, capsys, *flags)
        assert values["sampling"]["temperature"] == 0.2
        assert values["sampling"]["top_p"] == 0.5
        assert values["completion_tokens"] == 2

    def test_its_eos_ids_end_answers(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setattr(generation, "sample", lambda *args: torch.tensor([7]))
        values, _ = self.answer(model, tmp_path / "m", {"eos_token_id": 7}, capsys)
        assert (values["stop_reason"], values["tokens"]) == ("eos", [])

    def test_without_sampling_is_temperature_0(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        config = {"do_sample": False, "temperature": 0.6, "max_new_tokens": 2, "top_k": 50}
        values, err = self.answer(model, tmp_path / "m", config, capsys)
        assert values["sampling"]["temperature"] == 0
        assert err == "", "top_k changes nothing at temperature 0"
        _, err = self.answer(model, tmp_path / "m", config, capsys, "--temperature", "1")
        assert "top_k = 50" in err

    def test_keys_that_are_not_honoured_are_named_once(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        config = {"top_k": 50, "repetition_penalty": 1.1, "a_new_key": 3, "max_new_tokens": 2}
        _, err = self.answer(model, tmp_path / "m", config, capsys)
        path = tmp_path / "m" / "generation_config.json"
        assert err == (
            f"wavefold: {path}: top_k = 50, repetition_penalty = 1.1, a_new_key = 3: not honoured here; answers are "
            "chosen without\n"
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"temperature": "0.6"}', "temperature = '0.6' is not allowed; expected a number from 0"),
            ('{"temperature": -1}', "temperature = -1 is not allowed"),
            ('{"temperature": NaN}', "temperature = nan is not allowed"),
            ('{"top_p": 0}', "top_p = 0 is not allowed; expected a number above 0, at most 1"),
            ('{"top_p": true}', "top_p = True is not allowed"),
            ('{"max_new_tokens": 2.5}', "max_new_tokens = 2.5 is not allowed; expected a whole number from 1"),
            ('{"max_new_tokens": 0}', "max_new_tokens = 0 is not allowed"),
            ('{"do_sample": 0}', "do_sample = 0 is not allowed; expected true or false"),
            ('{"eos_token_id": [1, 300]}', "eos_token_id = [1, 300] is not allowed; expected ids from 0 to 299"),
            ('{"eos_token_id": "1"}', "eos_token_id = '1' is not allowed"),
            ("[]", "holds list, expected a JSON object"),
            ("{", "not a JSON file"),
        ],
    )
    def test_unusable(self, model: Path, tmp_path: Path, text: str, message: str, capsys: Capture) -> None:
        shutil.copytree(model, tmp_path / "m")
        (tmp_path / "m" / "generation_config.json").write_text(text)
        assert run(tmp_path / "m", "-p", "a") == 2
        err = capsys.readouterr().err
        assert f"{tmp_path / 'm' / 'generation_config.json'}: " in err
        assert message in err


class TestBatchInvariant:
    @pytest.mark.parametrize("arithmetic", ["released", "exact"])
    def test_one_pass_and_token_by_token_give_the_same_bits(
        self, arithmetic: str, config_file: Path, tmp_path: Path
    ) -> None:
        """Without the flag many rows are multiplied in another order than few, and bits differ."""
        config = ModelConfig.from_file(config_file).replace(num_hidden_layers=3, compress_ratios=(0, 4, 128, 0))
        random_checkpoint(config.replace(o_lora_rank=128), tmp_path / "m", 1)
        flags = ["--batch-invariant", "--threads", "1", "--arithmetic", arithmetic, "--dtype", "bfloat16"]
        args = build_parser().parse_args(["run", str(tmp_path / "m"), "-p", "", *flags])
        if not native.available():
            pytest.skip("no CPU kernels")
        ids = torch.arange(650) * 7 % 300
        try:
            with ops.using_backend("auto"):
                assert self.differing(Session(args), ids) == 0
                args.batch_invariant = False
                assert self.differing(Session(args), ids) > 0, "the test cannot see a difference"
        finally:
            native.use_batch_invariant(False)

    def differing(self, session: Session, ids: torch.Tensor) -> int:
        """Logits that differ between one pass and token by token; of a row each, as `run` asks for them."""
        model = session.llm.model
        whole, single = (model.new_pool(len(ids)).open() for _ in range(2))
        with torch.no_grad():
            hidden = model.extend(ids, [whole], [len(ids)])
            at_once = torch.cat([model.logits(row[None]) for row in hidden])
            one_by_one = [model.logits(model.extend(id_[None], [single], [1])) for id_ in ids]
        return int((at_once != torch.cat(one_by_one)).sum())

    @pytest.mark.parametrize("flags", [("--arithmetic", "exact"), ("--arithmetic", "released")])
    def test_is_refused_where_it_does_not_hold(self, model: Path, flags: tuple[str, ...], capsys: Capture) -> None:
        """Not in float32, which torch multiplies; nor where a matrix cannot be cut as the kernels need it."""
        with ops.using_backend("auto"):
            assert run(model, "-p", "a", "--batch-invariant", *flags) == 2
        assert "--batch-invariant holds for the CPU kernels alone" in capsys.readouterr().err


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
    assert answers.printable("a\x1b[2Jb\n\tc\x00\x7f\x9bé🙂") == "a\ufffd[2Jb\n\tc\ufffd\ufffd\ufffdé🙂"


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
