"""An adapter's `generation_config.json`: before the base's and the defaults, behind what a request says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters import write_adapter
from tests.cli.running import Capture
from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import LLM, Sampling
from wavefold.checkpoint.side_files import GENERATION_CONFIG
from wavefold.cli.main import main
from wavefold.engine import defaults
from wavefold.engine.defaults import GenerationDefaults

PROMPT = list(range(40, 60))
EOS = SMALL_WITH_TEXT.eos_token_ids


def with_defaults(folder: Path, text: str) -> Path:
    write_adapter(folder, SMALL_WITH_TEXT, 1)
    (folder / GENERATION_CONFIG).write_text(text)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_model(tmp_path_factory.mktemp("base") / "base")
    (folder / GENERATION_CONFIG).write_text('{"temperature": 0.9, "top_p": 0.95, "max_new_tokens": 7}')
    return folder


@pytest.fixture(scope="module")
def llm(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """`greedy` says how it is asked, `silent` does not."""
    root = tmp_path_factory.mktemp("adapters")
    greedy, silent = (
        with_defaults(root / "greedy", '{"do_sample": false}'),
        write_adapter(root / "s", SMALL_WITH_TEXT, 1),
    )
    with LLM(base, threads=1, adapters={"greedy": greedy, "silent": silent}) as llm:
        yield llm


def test_what_a_request_leaves_open_is_the_adapters_then_the_bases(llm: LLM) -> None:
    def values(sampling: Sampling, adapter: str | None) -> tuple[float, float, int]:
        resolved = llm.resolved(sampling, adapter)
        return resolved.temperature, resolved.top_p, resolved.max_tokens

    assert values(Sampling(), None) == values(Sampling(), "silent") == (0.9, 0.95, 7)
    assert values(Sampling(), "greedy") == (0, 0.95, 7)
    assert values(Sampling(temperature=0.5, max_tokens=3), "greedy") == (0.5, 0.95, 3)
    with pytest.raises(ValueError, match="adapter = 'nobody' is not loaded"):
        llm.resolved(Sampling(), "nobody")


@pytest.mark.parametrize(
    ("base_has", "adapter_has", "temperature"),
    [
        ((0.6, None), (None, None), 0.6),
        ((0.6, None), (0.3, None), 0.3),
        ((0.6, None), (0.0, False), 0.0),
        ((0.6, True), (None, True), 0.6),
        ((0.0, False), (None, None), 0.0),
        ((0.0, False), (0.3, None), 0.3),
        ((0.0, False), (None, True), None),  # the default, 1
    ],
)
def test_temperature_and_do_sample(
    base_has: tuple[float | None, bool | None], adapter_has: tuple[float | None, bool | None], temperature: float | None
) -> None:
    one, other = (GenerationDefaults(value, do_sample=sampled) for value, sampled in (base_has, adapter_has))
    assert other.over(one).temperature == temperature


@pytest.mark.parametrize(
    ("of_base", "of_adapter", "joined"),
    [
        ({"top_p": 0.9}, {"do_sample": False}, {"do_sample": False, "temperature": 0.0, "top_p": 0.9}),
        ({"do_sample": False}, {"temperature": 0.3}, {"temperature": 0.3}),
        ({"do_sample": False, "temperature": 0.6}, {"do_sample": True}, {"do_sample": True}),
        ({"eos_token_id": 5, "top_k": 4}, {"eos_token_id": [5, 7], "top_k": 3}, {"eos_token_id": [5, 7], "top_k": 3}),
        (None, {"max_new_tokens": 3}, {"max_new_tokens": 3}),
        ({"temperature": 0.5, "max_length": 9}, None, {"temperature": 0.5, "max_length": 9}),  # as the base has it
        (None, None, None),
    ],
)
def test_a_merged_checkpoint_samples_as_its_adapter(
    tmp_path: Path, of_base: dict[str, object] | None, of_adapter: dict[str, object] | None,
    joined: dict[str, object] | None,
) -> None:  # fmt: skip
    base, adapter = small_model(tmp_path / "base"), write_adapter(tmp_path / "adapter", SMALL_WITH_TEXT, 1)
    for folder, values in ((base, of_base), (adapter, of_adapter)):
        if values is not None:
            (folder / GENERATION_CONFIG).write_text(json.dumps(values))
    assert main(["merge", str(base), str(adapter), str(tmp_path / "out")]) == 0
    written = tmp_path / "out" / GENERATION_CONFIG
    assert (json.loads(written.read_text()) if written.exists() else None) == joined
    one, two = (defaults.defaults_in(folder, SMALL_WITH_TEXT.vocab_size) for folder in (base, adapter))
    through, merged = two.over(one), defaults.defaults_in(tmp_path / "out", SMALL_WITH_TEXT.vocab_size)
    assert (merged.temperature, merged.top_p, merged.max_new_tokens) == (
        through.temperature, through.top_p, through.max_new_tokens,
    )  # fmt: skip
    assert set(merged.eos_token_ids) == set(through.eos_token_ids)
    assert dict(merged.not_honoured) == dict(through.not_honoured)


def test_every_way_to_an_answer_has_them(llm: LLM) -> None:
    """Greedy answers are those of temperature 0 for any seed; the same matrices without the file are drawn."""
    expected = llm.generate([PROMPT], Sampling(temperature=0), adapter="greedy")[0].tokens
    assert len(expected) == 7
    seeds = [Sampling(seed=seed) for seed in range(4)]

    def answers(adapter: str) -> list[list[tuple[int, ...]]]:
        together = [answer.tokens for answer in llm.generate([PROMPT] * 4, seeds, adapter=[adapter] * 4)]
        streams = [llm.stream(PROMPT, one, adapter=adapter) for one in seeds]
        return [together, [stream.finish().tokens for stream in streams]]

    assert answers("greedy") == [[expected] * 4] * 2
    assert all(len(set(drawn)) > 1 for drawn in answers("silent"))
    drawn = {llm.generate([PROMPT], Sampling(seed=s, temperature=1), adapter="greedy")[0].tokens for s in range(4)}
    assert len(drawn) > 1, "the value of a request is not taken"


def test_eos_of_an_adapter_ends_its_answers_alone(llm: LLM, tmp_path: Path) -> None:
    second = llm.generate([PROMPT], Sampling(temperature=0), adapter="greedy")[0].tokens[1]
    llm.load_adapter("short", with_defaults(tmp_path / "short", f'{{"do_sample": false, "eos_token_id": {second}}}'))
    [short, usual] = llm.generate([PROMPT] * 2, adapter=["short", "greedy"])
    assert (short.finish_reason, len(short.tokens)) == ("eos", 1) and len(usual.tokens) == 7
    assert llm.resolved(Sampling(), "short").eos_ids == (*EOS, second)
    assert llm.resolved(Sampling()).eos_ids == tuple(EOS)
    held = Sampling(choices=("ab", "ac"))
    texts = [one.text for one in llm.generate(["a"] * 3, held, adapter=["short", None, "greedy"])]
    assert set(texts) <= {"ab", "ac"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"temperature": -1}', "temperature = -1 is not allowed; expected a number from 0"),
        ('{"do_sample": 0}', "do_sample = 0 is not allowed; expected true or false"),
        ('{"eos_token_id": 300}', "eos_token_id = 300 is not allowed; expected ids from 0 to 299"),
        ("[]", "holds list, expected a JSON object"),
        ("{", "not a JSON file"),
        (" " * (defaults.MOST_BYTES + 1), "more than 1,048,576 bytes are not allowed"),
    ],
)
def test_a_bad_file_is_refused_by_name_when_the_adapter_is_loaded(
    llm: LLM, tmp_path: Path, text: str, message: str
) -> None:
    folder, names = with_defaults(tmp_path / "bad", text), llm.adapters
    with pytest.raises(ValueError) as refusal:
        llm.load_adapter("bad", folder)
    assert str(folder / GENERATION_CONFIG) in str(refusal.value) and message in str(refusal.value)
    assert llm.adapters == names


def test_what_is_no_file_is_not_waited_for(llm: LLM, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "pipe", SMALL_WITH_TEXT, 1)
    os.mkfifo(folder / GENERATION_CONFIG)
    with pytest.raises(ValueError, match="is no file"):
        llm.load_adapter("pipe", folder)


def test_keys_that_are_not_honoured_are_told_by_the_adapters_file(llm: LLM, tmp_path: Path) -> None:
    folder = with_defaults(tmp_path / "more", '{"top_k": 5}')
    llm.load_adapter("more", folder)
    with pytest.warns(match="top_k = 5: not honoured here") as told:
        llm.generate([PROMPT] * 2, adapter="more")
    assert len(told) == 1 and str(folder / GENERATION_CONFIG) in str(told[0].message)


def test_the_commands_have_them(base: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = with_defaults(tmp_path / "one", '{"do_sample": false, "max_new_tokens": 4}')
    command = ["run", str(base), "--adapter", str(folder), "-p", "a", "--json"]
    found = []
    for flags in (["--seed", "1"], ["--seed", "2"], ["--temperature", "0.4", "--max-tokens", "2"]):
        assert main([*command, *flags]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["tokens"] == found[1]["tokens"] and len(found[0]["tokens"]) == 4
    assert [one["sampling"]["temperature"] for one in found] == [0, 0, 0.4]
    assert found[2]["sampling"]["max_tokens"] == 2
