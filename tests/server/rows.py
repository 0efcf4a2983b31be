"""How the tests of rows ask, through the official clients: what a client has no argument for goes beside its own."""

from __future__ import annotations

from typing import Any

import anthropic
import openai

from tests.server.feeding import PARAMETERS
from tests.server.saying import call

USER: Any = [{"role": "user", "content": "hey"}]
CHAT_TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
TOOL: Any = {"type": "function", "name": "f", "parameters": PARAMETERS, "strict": False}
CALL = call("f", a=(False, "12"))
ON: Any = {"thinking": {"type": "enabled"}}
IMAGE = "data:image/png;base64,iVBORw0KGgo="


def chat(client: openai.OpenAI, messages: Any = USER, **more: Any) -> Any:
    own = {
        name: more.pop(name) for name in list(more) if name in ("thinking", "chat_template_kwargs", "top_k", "min_p")
    }
    return client.chat.completions.create(model="wavefold", messages=messages, extra_body=own, **more)


def message(client: anthropic.Anthropic, messages: Any = USER, **more: Any) -> Any:
    own = {name: more.pop(name) for name in list(more) if name in ("temperature", "top_p", "top_k", "seed")}
    return client.messages.create(model="wavefold", messages=messages, **{"max_tokens": 99, **more}, extra_body=own)


def respond(client: openai.OpenAI, items: Any = "hey", **more: Any) -> Any:
    return client.responses.create(model="wavefold", input=items, **more)
