"""`tokenizer_config.json`: transformers needs it to read text and chats with a tokenizer that was trained here.

The keys are those of DeepSeek's file: no BOS is added, since V4's encoder writes it itself. Two values differ. The
padding token is V4's own `<｜▁pad▁｜>`, not EOS: collators that leave padding out of the loss would leave out every
EOS too. And there is a chat template, which DeepSeek does not ship. It is V4's encoding (encoding.py) and gives its
ids for contents without markers: transformers reads a marker in a content as the marker, `encode_chat` does not.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from wavefold.chat.special_tokens import ASSISTANT, BOS, END_THINK, EOS, PAD, USER

FILE_NAME = "tokenizer_config.json"

MODEL_MAX_LENGTH = 1_048_576
"""Tokens: DeepSeek-V4's window."""

CHAT_TEMPLATE = (
    "{{- '" + BOS + "' -}}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is not string or message['tool_calls'] -%}"
    "{{- raise_exception('this template encodes text alone; expected a content that is a string and no tool calls') -}}"
    "{%- endif -%}"
    "{%- if message['role'] == 'system' -%}"
    "{{- message['content'] -}}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '" + USER + "' + message['content'] -}}"
    "{%- if (add_generation_prompt if loop.last else loop.nextitem['role'] == 'assistant') -%}"
    "{{- '" + ASSISTANT + END_THINK + "' -}}"
    "{%- endif -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '" + EOS + "' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- raise_exception('role ' + message['role'] + ' is not encoded here; expected system, user or assistant') -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
"""Jinja. `generation` is transformers' mark of learned text (`return_assistant_tokens_mask`)."""


def tokenizer_config(special_tokens: Collection[str]) -> str:
    """The text of the file for a tokenizer with these special tokens. Tokens that it lacks are left out."""
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MODEL_MAX_LENGTH,
    }
    for key, token in (("bos_token", BOS), ("eos_token", EOS), ("pad_token", PAD)):
        if token in special_tokens:
            config[key] = token
    if {BOS, EOS, USER, ASSISTANT, END_THINK} <= set(special_tokens):
        config["chat_template"] = CHAT_TEMPLATE
    return json.dumps(config, indent=1, ensure_ascii=False) + "\n"
