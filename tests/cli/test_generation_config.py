"""`generation_config.json`: what a checkpoint's makers sample with, under `wavefold run`."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.cli.running import Capture, run
from wavefold import load
from wavefold.cli.main import main

choosing = import_module("wavefold.engine.choosing")


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
        stops = list(dict.fromkeys((*load(model, "exact").config.eos_token_ids, 1, 7)))
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
        monkeypatch.setattr(choosing, "choose", lambda *args: torch.tensor([7]))
        values, _ = self.answer(model, tmp_path / "m", {"eos_token_id": 7}, capsys)
        assert (values["finish_reason"], values["tokens"]) == ("eos", [])

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
