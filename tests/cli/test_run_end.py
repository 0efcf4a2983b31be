"""How an answer of `wavefold run` ended, and what of it is printed."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.cli.running import Capture, printed, run
from wavefold import load
from wavefold.chat import Tokenizer
from wavefold.cli.main import main

choosing = import_module("wavefold.engine.choosing")


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
        eos = load(model, "exact").config.eos_token_ids[0]
        monkeypatch.setattr(choosing, "choose", lambda *args: torch.tensor([eos]))
        assert run(model, "-p", "hi", "--json") == 0
        values = printed(capsys)
        assert (values["finish_reason"], values["completion_tokens"]) == ("eos", 0)

    def test_default_length_fits_the_window(self, narrow: Path, capsys: Capture) -> None:
        assert main(["run", str(narrow), "-p", "abc", "--json"]) == 0
        out, err = capsys.readouterr()
        values = json.loads(out)
        assert (values["finish_reason"], values["completion_tokens"]) == ("context", 13)
        assert err == ("wavefold: the answer ended because the context window is full: max_position_embeddings = 16\n")

    def test_length_that_is_asked_for_is_refused_beyond_the_window(self, narrow: Path, capsys: Capture) -> None:
        assert main(["run", str(narrow), "-p", "abc", "--max-tokens", "14"]) == 2
        assert "max_position_embeddings = 16" in capsys.readouterr().err
        assert main(["run", str(narrow), "-p", "abc", "--max-tokens", "13", "--json"]) == 0
        assert printed(capsys)["finish_reason"] == "length"

    def test_prompt_beyond_the_window_is_refused(self, narrow: Path, capsys: Capture) -> None:
        assert main(["run", str(narrow), "-p", "abcdefghijklmnopqr"]) == 2
        assert "19 prompt tokens" in capsys.readouterr().err

    def test_special_tokens_are_not_printed_unasked(
        self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        tokenizer = Tokenizer.load(model)
        ids = tokenizer.encode("a<｜User｜><think>b", allow_special=True)
        monkeypatch.setattr(choosing, "choose", lambda *args: torch.tensor([left.pop(0)]))
        for flags, text in (([], "a<think>b"), (["--show-special"], "a<｜User｜><think>b")):
            left = list(ids)
            assert run(model, "-p", "hi", *flags) == 0
            assert capsys.readouterr().out == text + "\n"
            left = list(ids)
            assert run(model, "-p", "hi", "--json", *flags) == 0
            values = printed(capsys)
            assert (values["text"], values["tokens"]) == (text, ids)
