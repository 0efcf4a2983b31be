"""What callers give `LLM` and its methods: another type is refused by its name and value, before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import LLM, Sampling
from wavefold.engine import settings

SHORT = Sampling(2, 0)
HUGE = 10**5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("arguments") / "model")


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder) as llm:
        yield llm


NO_WHOLE: list[Any] = ["3", True, 1.5, float("nan"), [1], -1, 2**63, HUGE, np.float32(1), np.bool_(True)]
SETTINGS: dict[str, list[Any]] = {
    "path": [3, b"folder", ["a"]],
    "arithmetic": [3, None, ["exact"]],
    "dtype": ["float32", 3, float, np.float32],
    "device": [3, None, ["cpu"]],
    "threads": [*NO_WHOLE, 0, 1025],
    "strict": [0, "no", None],
    "batch_invariant": [1, "yes", None],
    "over_ranks": [2, True, "2"],
    "kernels": [3, True],
    "activations": [8, None],
    "huge_pages": [2, "no", None],
    "cache_tokens": [*NO_WHOLE, 0],
    "draft_depth": [*NO_WHOLE, None, 128],
    "drafts": [3, True, ["lookup"]],
    "width": [*NO_WHOLE, None, 0, 1025],
    "memory": [1.5, [1], "12 parsecs", 0, "-1G", ""],
    "prefix_cache": [1, "yes", None],
    "snapshot_every": [*NO_WHOLE, None, 0, 127, 200],
    "cache_dir": [3, b"folder", ["a"]],
    "disk_cache": [1.5, [1], "much", 0, "-1G"],
    "adapters": [3, "folder", ["a"], {3: "a"}, {"": "a"}, {"a": 3}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SETTINGS.items() for value in values],
                         ids=lambda value: str(type(value)))  # fmt: skip
def test_settings(folder: Path, name: str, value: Any) -> None:
    arguments = {"path": folder} | {name: value}
    with pytest.raises(ValueError, match=rf"^{name} = .* is not allowed; expected "):
        LLM(**arguments)


def test_every_setting_has_a_rule_that_is_tested() -> None:
    names = set(inspect.signature(LLM.__init__).parameters) - {"self"}
    assert set(settings.RULES) == set(SETTINGS) == names


def test_settings_may_be_numpys(folder: Path) -> None:
    with LLM(folder, threads=np.int64(1), draft_depth=np.int8(2), cache_tokens=np.int64(256)) as llm:  # type: ignore[arg-type]
        assert llm.generate(["a"], SHORT)[0].usage.completion_tokens == 2


MISTAKES: list[tuple[Callable[[LLM], object], str]] = [
    (lambda llm: llm.generate(None), "prompts = None is not allowed; expected a list of texts or of lists of token"),
    (lambda llm: llm.generate(iter(["a"])), "prompts = <list_iterator .* is not allowed; expected a list"),
    (lambda llm: llm.generate({"a": 1}), "prompts = {'a': 1} is not allowed; expected a list"),
    (lambda llm: llm.generate({"a"}), "prompts = {'a'} is not allowed; expected a list"),
    (lambda llm: llm.generate(b"a"), "prompts = b'a' is not allowed; expected a list"),
    (lambda llm: llm.generate([1, 2]), "prompt = 1 is not allowed; expected a text, or a list of token ids"),
    (lambda llm: llm.generate([[True]]), r"prompt = \[True\] is not allowed"),
    (lambda llm: llm.generate([[5, False]]), r"prompt = \[5, False\] is not allowed"),
    (lambda llm: llm.generate([[5, 2**63]]), r"prompt = \[5, 9223372036854775808\] is not allowed"),
    (lambda llm: llm.generate([[HUGE]]), "prompt = <a value of type list> is not allowed"),
    (lambda llm: llm.generate([iter([1])]), "prompt = <list_iterator .* is not allowed"),
    (lambda llm: llm.generate([torch.tensor([[1, 2]])]), r"prompt = tensor\(\[\[1, 2\]\]\) is not allowed"),
    (lambda llm: llm.generate([torch.tensor([True])]), r"prompt = tensor\(\[True\]\) is not allowed"),
    (lambda llm: llm.generate(["a"], {"n": 1}), "sampling = {'n': 1} is not allowed; expected Sampling"),
    (lambda llm: llm.generate(["a"], [None]), r"sampling = \[None\] is not allowed; expected Sampling"),
    (lambda llm: llm.generate(["a"], 0.7), "sampling = 0.7 is not allowed; expected Sampling"),
    (lambda llm: llm.generate(["a"], SHORT, 3), "on_progress = 3 is not allowed; expected a function"),
    (lambda llm: llm.generate(["a"], SHORT, None, True), "on_prefill = True is not allowed; expected a function"),
    (lambda llm: llm.stream("a", [SHORT]), r"sampling = \[Sampling.* is not allowed; expected Sampling"),
    (lambda llm: llm.stream("a", SHORT, "x"), "on_prefill = 'x' is not allowed"),
    (lambda llm: llm.stream(3.5), "prompt = 3.5 is not allowed"),
    (lambda llm: llm.score(None, ["a"]), "prompts = None is not allowed"),
    (lambda llm: llm.score(["a"], iter(["a"])), "continuations = .* is not allowed; expected a list"),
    (lambda llm: llm.score(["a"], [None]), "continuation = None is not allowed"),
    (lambda llm: llm.score([[]], ["a"]), r"prompt \[\] and continuation 'a': expected one token each at least"),
    (lambda llm: llm.chat("Hi"), 'messages = .Hi. is not allowed; expected a list of {"role": ROLE, "content": TEXT}'),
    (lambda llm: llm.chat(None), "messages = None is not allowed; expected a list"),
    (lambda llm: llm.chat({"role": "user", "content": "a"}), "messages = {'role': .* is not allowed; expected a list"),
    (lambda llm: llm.chat(["hi"]), "message 1: 'hi' is not allowed; expected {"),
    (lambda llm: llm.chat([{"role": "user", "content": "a"}, "hi"]), "message 2: 'hi' is not allowed; expected {"),
    (lambda llm: llm.chat([{"role": "user", "content": "a"}], 3), "sampling = 3 is not allowed"),
    (lambda llm: llm.chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
     "message 2: role = 'assistant' is not allowed at the end of a chat that is to be answered; expected 'user'"),
    (lambda llm: llm.chat([{"role": "system", "content": "a"}]), "message 1: role = 'system' is not allowed"),
    (lambda llm: llm.prompt(3), "text = 3 is not allowed; expected a text"),
    (lambda llm: llm.stream_chat([]), "a chat of no messages is not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes(llm: LLM, call: Callable[[LLM], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call(llm)
    assert llm._runner is not None and llm._runner.idle


def test_none_is_the_default(tmp_path: Path) -> None:
    """In a model of a small window, which its answers fill."""
    config = SMALL_WITH_TEXT.replace(max_position_embeddings=64)
    with LLM(small_model(tmp_path / "model", config)) as llm:
        expected = llm.generate(["a", "b"], Sampling())
        assert [a.tokens for a in llm.generate(["a", "b"], None, None, None)] == [a.tokens for a in expected]
        assert llm.stream("a", None, None).finish().tokens == expected[0].tokens


@pytest.mark.parametrize(
    "ids", [np.array([5, 6, 7]), torch.tensor([5, 6, 7]), (5, 6, 7), range(5, 8), [np.int64(5), 6, 7]]
)
def test_token_ids_of_other_kinds(llm: LLM, ids: Any) -> None:
    assert llm.generate([ids], SHORT)[0].tokens == llm.generate([[5, 6, 7]], SHORT)[0].tokens


def test_an_empty_prompt_is_bos(llm: LLM) -> None:
    """Its continuation is scored as the beginning of a text."""
    assert llm.tokenizer is not None
    assert llm.score([""], ["ab"]) == llm.score([[llm.tokenizer.bos_id]], ["ab"])
