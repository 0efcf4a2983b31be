"""`wavefold run --chat`: messages in V4's encoding, remembered."""

import io
import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.cli.running import Capture, printed, run
from wavefold.chat import Tokenizer
from wavefold.chat.encoding import encode_chat
from wavefold.llm import LLM

choosing = import_module("wavefold.engine.choosing")


class TestChat:
    def test_message_is_encoded(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        seen = self.prompts_of(monkeypatch)
        assert run(model, "--chat", "-p", "hi<｜User｜>", "--system", "Be brief.", "--json") == 0
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi<｜User｜>"}]
        assert seen == [encode_chat(Tokenizer.load(model), messages).ids]
        assert printed(capsys)["prompt_tokens"] == len(seen[0])

    def test_history_is_kept(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        seen = self.prompts_of(monkeypatch)
        monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
        assert run(model, "--chat", "--lines", "--json") == 0
        first, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
        tokenizer = Tokenizer.load(model)
        two = encode_chat(tokenizer, [{"role": "user", "content": "two"}]).ids[1:]
        assert seen[1] == [*seen[0], *first["tokens"], tokenizer.eos_id, *two], "the model's own tokens"

    def test_a_next_turn_ends_the_answer(self, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        user = Tokenizer.load(model).token_id("<｜User｜>")
        monkeypatch.setattr(choosing, "choose", lambda *args: torch.tensor([user]))
        assert run(model, "--chat", "-p", "hi", "--json") == 0
        values = printed(capsys)
        assert (values["finish_reason"], values["tokens"]) == ("stop", [])
        assert run(model, "-p", "hi", "--json") == 0
        assert printed(capsys)["finish_reason"] == "length", "markers end nothing outside a chat"

    def test_tokenizer_without_markers(self, model: Path, tmp_path: Path, capsys: Capture) -> None:
        folder = tmp_path / "model"
        shutil.copytree(model, folder)
        path = folder / "tokenizer.json"
        path.write_text(path.read_text().replace("<｜Assistant｜>", "<other>"))
        assert run(folder, "--chat", "-p", "hi") == 2
        assert "a chat needs the token '<｜Assistant｜>', which the model's tokenizer lacks" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--system", "x", "-p", "hi"], "--system is a chat's"),
            (["--think", "-p", "hi"], "--think is a chat's"),
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
