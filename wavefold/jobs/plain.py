"""Plainer lines than OpenAI's, written as these.

"def f("                                    ->  /v1/completions, {"prompt": "def f(", "max_tokens": 256}; a JSON string
{"prompt": "def f(", "temperature": 0}      ->  the same with its fields; "id" is its custom_id, else its number
{"messages": [{"role": "user", ...}]}       ->  /v1/chat/completions
{"prompt": "def f(", "model": "m"}          ->  the same of this model
"""

from __future__ import annotations

from typing import Any

from wavefold.jobs.lines import LineError, decoded

MAX_TOKENS = 256
"""What `Sampling` has where nothing is said: OpenAI's completions would end after 16."""
EXPECTED = (
    'expected a text in quotes, as "def f(", or {"prompt": ...}, {"messages": ...}, or a line of OpenAI\'s format'
)
SHARED = frozenset((
    "model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "n", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "stop", "logit_bias", "logprobs",
))  # fmt: skip
COMPLETION = SHARED | {"prompt", "echo"}
CHAT = (SHARED - {"logprobs"}) | {"messages"}


def official(number: int, data: bytes) -> dict[str, Any]:
    """Returns a line as an object of OpenAI's format. Raises LineError for a field that would be lost."""
    values = decoded(number, data, EXPECTED)
    if isinstance(values, str):
        values = {"prompt": values}
    if not isinstance(values, dict):
        raise LineError("invalid_json_line", f"is neither a text nor an object; {EXPECTED}", number)
    if "custom_id" in values or "url" in values:
        return values
    key = str(values.pop("id", number))
    is_chat = "messages" in values
    allowed = CHAT if is_chat else COMPLETION
    if unknown := sorted(values.keys() - allowed):
        expected = ", ".join(("id", *sorted(allowed)))
        raise LineError("unknown_parameter", f"{unknown[0][:80]} is not known; expected {expected}", number,
                        unknown[0][:80])  # fmt: skip
    if not is_chat and "prompt" not in values:
        raise LineError("missing_required_parameter", "has neither prompt nor messages", number, "prompt")
    url = "/v1/chat/completions" if is_chat else "/v1/completions"
    return {"custom_id": key, "method": "POST", "url": url, "body": {"max_tokens": MAX_TOKENS, **values}}
