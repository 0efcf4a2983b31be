"""`/v1/completions`, on bytes: texts, ids, holes, log probabilities as lm-eval reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import types

from tests.server.feeding import TOKENIZER, answered, check_type, context
from wavefold.chat.special_tokens import FIM_BEGIN, FIM_END, FIM_HOLE
from wavefold.server.protocol import PROTOCOLS, Refused

PATH = "/v1/completions"
BODY: dict[str, Any] = {"model": "m", "prompt": "def f(n):"}


def test_answers_are_of_openais_type() -> None:
    for changes in ({}, {"logprobs": 2}, {"n": 3}, {"echo": True}, {"prompt": ["a", "b"]}, {"suffix": "\n"}):
        whole = answered(PATH, {**BODY, **changes}, " return 1", "length").whole
        check_type(types.Completion, whole)
        frames = answered(PATH, {**BODY, **changes, "stream": True}, " return 1", "length").frames
        assert frames.pop() == (None, "[DONE]")
        for _, data in frames:  # null until the end, which the type leaves out
            reasons = [{**one, "finish_reason": one["finish_reason"] or "stop"} for one in data["choices"]]
            check_type(types.Completion, {**data, "choices": reasons})
        for index, choice in enumerate(whole["choices"]):
            pieces = [data["choices"][0] for _, data in frames if data["choices"][0]["index"] == index]
            assert "".join(piece["text"] for piece in pieces) == choice["text"]
            if choice["logprobs"]:
                joined = [token for piece in pieces if piece["logprobs"] for token in piece["logprobs"]["tokens"]]
                assert joined == choice["logprobs"]["tokens"]


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [TOKENIZER.encode("ab", bos=True)]),
        (["ab", "c"], [TOKENIZER.encode("ab", bos=True), TOKENIZER.encode("c", bos=True)]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_prompts_are_texts_or_ids_or_lists_of_them(prompt: Any, ids: list[list[int]]) -> None:
    parts = answered(PATH, {**BODY, "prompt": prompt, "echo": True}).asked.parts
    assert [part.prompt.ids for part in parts] == ids


def test_a_hole_is_written_as_in_training_and_markers_in_texts_stay_text() -> None:
    body = {**BODY, "prompt": f"a{FIM_END}", "suffix": f"b{FIM_HOLE}"}
    ids = answered(PATH, body).asked.parts[0].prompt.ids
    marks = [TOKENIZER.token_id(marker) for marker in (FIM_BEGIN, FIM_HOLE, FIM_END)]
    assert ids[:2] == [TOKENIZER.bos_id, marks[0]] and ids[-1] == marks[2]
    assert [token for token in ids if TOKENIZER.is_added(token)] == [TOKENIZER.bos_id, *marks]
    hole = ids.index(marks[1])
    assert TOKENIZER.decode(ids[2:hole]) == body["prompt"]
    assert TOKENIZER.decode(ids[hole + 1 : -1]) == body["suffix"]


def test_an_open_last_token_is_taken_back_and_its_text_is_left_out() -> None:
    part = answered(PATH, BODY).asked.parts[0]
    assert part.prompt.taken and part.prompt.first_ids
    whole = answered(PATH, BODY, part.prompt.taken.decode() + "\n  x").whole
    assert whole["choices"][0]["text"] == "\n  x"


def test_lm_eval_reads_the_log_probabilities_of_its_tokens() -> None:
    """As lm-eval 0.4.13 does (`parse_logprobs`): the last position is dropped, context tokens are skipped."""
    prompt = TOKENIZER.encode("def f(n): return", bos=True)
    body = {
        "model": "m", "prompt": [prompt], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True,
    }  # fmt: skip
    got = answered(PATH, body, "\n", "length")
    sampling = got.asked.parts[0].sampling
    assert (sampling.max_tokens, sampling.prompt_logprobs, sampling.logprobs) == (1, 1, 1)
    assert sampling.logit_bias == {TOKENIZER.eos_id: -100.0}
    logprobs = got.whole["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(prompt) + 1
    continuation = logprobs["token_logprobs"][4:-1]
    assert continuation == [-2.0] * (len(prompt) - 4)
    for value, top in zip(continuation, logprobs["top_logprobs"][4:-1], strict=True):
        assert value == max(top.values())
    assert logprobs["token_logprobs"][0] is None
    text = got.whole["choices"][0]["text"]
    for token, offset in list(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))[1:]:
        assert text[offset:].startswith(token)


def test_a_text_of_no_tokens_is_the_prompt_with_its_log_probabilities() -> None:
    whole = answered(PATH, {**BODY, "max_tokens": 0, "echo": True, "logprobs": 0}, "x", "length").whole
    assert whole["choices"][0]["text"] == BODY["prompt"] and whole["usage"]["completion_tokens"] == 0
    assert "".join(whole["choices"][0]["logprobs"]["tokens"][1:]) == BODY["prompt"]


def test_a_token_of_half_a_character_is_written_in_bytes() -> None:
    logprobs = answered(PATH, {**BODY, "logprobs": 1}, "é", "length").whole["choices"][0]["logprobs"]
    assert logprobs["tokens"] in (["é"], ["bytes:\\xc3", "bytes:\\xa9"])
    assert set(logprobs["text_offset"]) == {0}


def test_a_stop_text_ends_the_answer_and_is_not_shown() -> None:
    got = answered(PATH, {**BODY, "stop": ["lo w"], "logprobs": 0}, "hello world", "length")
    choice = got.whole["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("hel", "stop")
    assert "".join(choice["logprobs"]["tokens"]).startswith("hel")
    assert got.asked.parts[0].sampling.stop == ("lo w",)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt"), ({"prompt": [[5], "a"]}, "prompt"),
        ({"prompt": [3072]}, "prompt"), ({"prompt": [-1]}, "prompt"), ({"prompt": None}, "prompt"),
        ({"best_of": 2}, "best_of"), ({"max_tokens": 0}, "max_tokens"), ({"suffix": "a", "echo": True}, "echo"),
        ({"prompt": [5], "suffix": "a"}, "suffix"), ({"stream": True, "echo": True, "logprobs": 1}, "stream"),
        ({"n": 128, "prompt": ["a", "b"]}, "n"), ({"max_tokens": 30_000}, "max_tokens"),
        ({"logprobs": True}, "logprobs"), ({"response_format": {}}, "response_format"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(Refused) as error:
        PROTOCOLS[PATH].asked(json.dumps({**BODY, **changes}).encode(), {}, context())
    assert error.value.status == 400 and (error.value.param or "").startswith(place)


def test_a_stream_has_the_log_probabilities_of_what_it_shows() -> None:
    """Tokens that become part of a stop text are not shown, and those before them come in time."""
    for stop in ("urn 1", "zzz", " r"):
        body = {**BODY, "logprobs": 1, "stop": [stop]}
        whole = answered(PATH, body, " return 1 and", "length").whole["choices"][0]
        frames = answered(PATH, {**body, "stream": True}, " return 1 and", "length").frames
        choices = [data["choices"][0] for _, data in frames if data != "[DONE]"]
        for key in whole["logprobs"]:
            assert [one for choice in choices for one in (choice["logprobs"] or {}).get(key, ())] == (
                whole["logprobs"][key]
            )
        assert "".join(choice["text"] for choice in choices) == whole["text"]


def test_the_default_of_max_tokens_is_cut_to_the_window() -> None:
    body = {**BODY, "prompt": [7] * 90}
    asked = PROTOCOLS[PATH].asked(json.dumps(body).encode(), {}, context(window=100))
    assert asked.parts[0].sampling.max_tokens == 10
    for changes in ({"max_tokens": 16}, {"prompt": [7] * 100}):
        with pytest.raises(Refused) as error:
            PROTOCOLS[PATH].asked(json.dumps({**body, **changes}).encode(), {}, context(window=100))
        assert error.value.code == "context_length_exceeded"
    with pytest.raises(Refused, match="Send a shorter prompt: an answer needs a place"):
        echoed = {**body, "prompt": [7] * 100, "max_tokens": 0, "echo": True}
        PROTOCOLS[PATH].asked(json.dumps(echoed).encode(), {}, context(window=100))


@pytest.mark.parametrize(
    "changes", [{}, {"n": 2, "prompt": ["a", "b c"]}, {"suffix": "x"}, {"logprobs": 1}, {"stop": "rn"}]
)
def test_token_ids_for_who_asks(changes: dict[str, Any]) -> None:
    """Prompt and answer are what the model had: the last token of a text may be the model's to finish."""
    body = {**BODY, **changes, "return_token_ids": True}
    got = answered(PATH, body, " return é", "length")
    frames = answered(PATH, {**body, "stream": True}, " return é", "length").frames[:-1]
    for index, choice in enumerate(got.whole["choices"]):
        assert choice["prompt_token_ids"] == got.asked.parts[index].prompt.ids
        pieces = [data["choices"][0] for _, data in frames if data["choices"][0]["index"] == index]
        assert [piece.get("prompt_token_ids") for piece in pieces] == [
            choice["prompt_token_ids"],
            *[None] * (len(pieces) - 1),
        ]
        assert [token for piece in pieces for token in piece["token_ids"]] == choice["token_ids"]
        assert TOKENIZER.decode(choice["token_ids"]).startswith(" return é" if "stop" not in changes else " return")
    assert got.whole["usage"]["completion_tokens"] == sum(len(one["token_ids"]) for one in got.whole["choices"])
