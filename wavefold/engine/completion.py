"""An answer as it is handed to a caller."""

from __future__ import annotations

from dataclasses import dataclass

from wavefold.chat.tool_calls import ToolCall
from wavefold.engine.logprobs import TokenLogprob
from wavefold.engine.usage import Usage


@dataclass(frozen=True)
class Completion:
    """An answer. `text` is None where the model has no tokenizer; with `echo` it begins with the prompt.

    `finish_reason`:

    "eos"           the model ended its text
    "stop"          one of `stop_ids` or `stop` of the sampling came, or its `json_schema`, `regex`, `choices` or
                    tool calls are complete: nothing may follow. Where a form might go on, "eos" ends it
    "length"        `max_tokens` were chosen; a form may then be incomplete
    "context"       the model's window is full
    "interrupted"   it was closed, or has not ended yet
    "error"         `error` says why

    The token that ended the answer is not in `tokens`. The tokens of a stop text are in `tokens`, and the stop text is
    not in `text`.
    `usage.prompt_tokens` counts the prompt as it was written. `index`: which of the `n` answers to its prompt it is.

    `tool_calls`: what the answer calls where its sampling has `tools`, else None. `text` holds their markup too. A call
    that `max_tokens` cut off is left out.

    `logprobs` has one entry for each of `tokens`, `prompt_logprobs` one for each token of the prompt that was run, None
    for the first. Both are None unless they were asked for.
    """

    text: str | None
    tokens: tuple[int, ...]
    finish_reason: str
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    index: int = 0
    error: str = ""
    tool_calls: tuple[ToolCall, ...] | None = None
