"""Lines of a batch: what they ask for, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wavefold import Sampling
from wavefold.batch import job_of


def openai(body: dict[str, Any], url: str = "/v1/chat/completions", key: str = "k") -> str:
    return json.dumps({"custom_id": key, "method": "POST", "url": url, "body": body})


MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("line", "prompt", "sampling"),
    [
        ('"def f("', "def f(", None),
        ('{"prompt": [1, 2], "temperature": 0, "max_tokens": 3}', [1, 2], Sampling(3, 0)),
        ('{"prompt": "a", "stop": ["x"], "choices": ["b", "c"]}', "a", Sampling(stop=("x",), choices=("b", "c"))),
        (openai({"model": "m", "messages": MESSAGES, "max_tokens": 5, "stop": "x", "seed": 3}), MESSAGES,
         Sampling(5, stop=("x",), seed=3)),
        (openai({"messages": MESSAGES, "max_completion_tokens": 4, "max_tokens": 9, "logprobs": True, "top_logprobs": 2,
                 "logit_bias": {"7": -100}, "presence_penalty": 1, "stream": False}), MESSAGES,
         Sampling(4, logprobs=2, logit_bias={7: -100}, presence_penalty=1)),
        (openai({"messages": MESSAGES, "response_format": {"type": "json_schema", "json_schema": {
            "name": "n", "schema": {"type": "integer"}}}}), MESSAGES, Sampling(json_schema={"type": "integer"})),
        (openai({"prompt": "p", "echo": True, "n": 2, "temperature": None}, "/v1/completions"), "p",
         Sampling(echo=True, n=2)),
    ],
)  # fmt: skip
def test_what_lines_ask_for(line: str, prompt: object, sampling: Sampling | None) -> None:
    job = job_of(3, line)
    assert (job.error, job.prompt, job.sampling) == ("", prompt, sampling)
    assert job.key == ("k" if "custom_id" in line else "3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: Expecting property name"), ("3", "3 is not allowed; expected an object or a text"),
        ('{"prompt": 3}', "prompt = 3 is not allowed"), ('{"prompt": []}', "prompt = [] is not allowed"),
        ('{"prompt": "a", "max_token": 3}', "max_token not known; expected prompt, id, and choices"),
        ('{"prompt": "a", "temperature": -1}', "temperature = -1 is not allowed"),
        (openai({}, "/v1/embeddings"), "url = /v1/embeddings is not allowed"),
        (openai({}), "messages is not allowed"), (openai({"messages": MESSAGES, "tools": [1]}), "tools = [1] is not"),
        (openai({"messages": MESSAGES, "stream": True}), "stream = True is not supported"),
        (openai({"messages": MESSAGES, "response_format": {"type": "xml"}}), "response_format is not allowed"),
        (openai({"messages": MESSAGES, "n": 0}), "n = 0 is not allowed"),
        (openai({"messages": MESSAGES, "logit_bias": {"a": 1}}), "invalid literal"),
        ('{"custom_id": "k", "body": {}}', "url = None is not allowed"),
        (json.dumps({"custom_id": "k", "url": "/v1/completions", "body": 3}), "body is not an object"),
    ],
)  # fmt: skip
def test_what_is_refused(line: str, message: str) -> None:
    """In the line's own result, which is of its format."""
    job = job_of(3, line)
    assert job.error.startswith("line 3: ") and message in job.error
    result = job.result((), "m")
    if "custom_id" in line:
        response = result["response"]
        assert response["status_code"] == 400 and message in response["body"]["error"]["message"]  # type: ignore[index]
    else:
        assert message in str(result["error"]) and result["id"] == "3"
