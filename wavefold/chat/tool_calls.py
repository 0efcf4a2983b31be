"""Tool calls as DeepSeek-V4 writes them (encoding_dsv4): from calls to text, and from an answer's text to calls.

<blank line>
<｜DSML｜tool_calls>
<｜DSML｜invoke name="f">
<｜DSML｜parameter name="p" string="true">a text as it is</｜DSML｜parameter>
<｜DSML｜parameter name="q" string="false">[1, 2]</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜tool_calls>
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wavefold.chat.special_tokens import DSML

OPENING = f"\n\n<{DSML}tool_calls>\n"
CLOSING = f"</{DSML}tool_calls>"
_CALL = re.compile(rf'<{DSML}invoke name="([^"]*)">\n(.*?)</{DSML}invoke>\n', re.DOTALL)
_PARAMETER = re.compile(rf'<{DSML}parameter name="([^"]*)" string="(true|false)">(.*?)</{DSML}parameter>\n', re.DOTALL)


class ToolCall(NamedTuple):
    """A call of the tool `name` with `arguments` by name, values of JSON."""

    name: str
    arguments: Mapping[str, object]


def calls_text(calls: Sequence[ToolCall]) -> str:
    """Returns the text of calls, with the blank line before it; "" for none."""
    if not calls:
        return ""
    lines = []
    for call in calls:
        lines.append(f'<{DSML}invoke name="{call.name}">\n')
        for name, value in call.arguments.items():
            is_text = isinstance(value, str)
            written = value if is_text else json.dumps(value, ensure_ascii=False)
            tag = f'parameter name="{name}" string="{"true" if is_text else "false"}"'
            lines.append(f"<{DSML}{tag}>{written}</{DSML}parameter>\n")
        lines.append(f"</{DSML}invoke>\n")
    return OPENING + "".join(lines) + CLOSING


def read_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Returns the text before the calls of an answer, and its calls. A call that was cut off is left out.

    The answer must be one that `Sampling(tools=...)` held: markup is taken as it stands. Raises ValueError for a value
    that is no JSON.
    """
    content, _, block = text.partition(OPENING)
    calls = []
    for name, parameters in _CALL.findall(block):
        arguments = {
            parameter: value if is_text == "true" else json.loads(value)
            for parameter, is_text, value in _PARAMETER.findall(parameters)
        }
        calls.append(ToolCall(name, arguments))
    return content, tuple(calls)
