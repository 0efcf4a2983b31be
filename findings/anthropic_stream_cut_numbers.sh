#!/usr/bin/env bash
# anthropic 2.14.0 (its JSON reader is jiter 0.19.0). A stream whose answer reaches max_tokens amid a tool call ends with
# a part of the call's JSON. One would assume that get_final_message() leaves out the value that was cut, since it does so
# with a text, a word such as true, or a number that cannot end there: {"to": "ann", "note": "re is {"to": "ann"}. A
# number that could end where it was cut counts as whole, at any depth and as the last of a list: of an amount of 1200,
# cut after 12, the input has 12. It is an int, valid under the tool's schema, and cannot be told from a call of 12. The
# snapshots of a stream under way have every beginning of a number in the same way. It matters to whoever runs tools by
# the blocks of a message, and to evaluations that score calls: a number that no model meant counts as the model's own.
# Look at stop_reason first, as the package's own tool runner does, and take nothing from the last block of a message
# that ended with "max_tokens".
#
# Seen (Python 3.11, Linux x86-64):
#   anthropic 2.14.0, jiter 0.19.0; every stream ends with max_tokens
#   {"to": "ann", "amount": 1200}        {'to': 'ann', 'amount': 1200}
#   {"to": "ann", "amount": 12           {'to': 'ann', 'amount': 12}
#   {"to": "ann", "amount": 12.          {'to': 'ann'}
#   {"to": "ann", "note": "re            {'to': 'ann'}
#   {"to": "ann", "now": tr              {'to': 'ann'}
#   {"rows": [17, 4                      {'rows': [17, 4]}
#   {"at": {"lat": 52.5, "lon": 1        {'at': {'lat': 52.5, 'lon': 1}}
#   snapshots of {"amount": 1200}, by character: 1, 12, 120, 1200
#   as stated: a number that was cut counts as whole
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet anthropic==2.14.0 jiter==0.19.0

cat > "$work/look.py" <<'PY'
import importlib.metadata
import json

import anthropic
import httpx2


def stream_of(parts):
    """The events of a message with one tool call, whose JSON comes in `parts`, and which max_tokens ends."""
    message = {
        "id": "msg", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    block = {"type": "tool_use", "id": "call", "name": "pay", "input": {}}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": part}}
          for part in parts),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
         "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]


def asked(parts):
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in stream_of(parts)).encode()
    answer = httpx2.MockTransport(
        lambda request: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    )
    client = anthropic.Anthropic(api_key="none", base_url="http://server", http_client=httpx2.Client(transport=answer))
    snapshots = []
    with client.messages.stream(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "pay"}],
        tools=[{"name": "pay", "input_schema": {"type": "object"}}],
    ) as stream:
        for event in stream:
            if event.type == "input_json":
                snapshots.append(event.snapshot)
        message = stream.get_final_message()
    assert message.stop_reason == "max_tokens"
    return message.content[0].input, snapshots


jiter = importlib.metadata.version("jiter")
print(f"anthropic {anthropic.__version__}, jiter {jiter}; every stream ends with max_tokens")
for text, expected in (
    ('{"to": "ann", "amount": 1200}', {"to": "ann", "amount": 1200}),
    ('{"to": "ann", "amount": 12', {"to": "ann", "amount": 12}),
    ('{"to": "ann", "amount": 12.', {"to": "ann"}),
    ('{"to": "ann", "note": "re', {"to": "ann"}),
    ('{"to": "ann", "now": tr', {"to": "ann"}),
    ('{"rows": [17, 4', {"rows": [17, 4]}),
    ('{"at": {"lat": 52.5, "lon": 1', {"at": {"lat": 52.5, "lon": 1}}),
):
    found, _ = asked([text[:7], text[7:]])
    print(f"{text:36} {found}")
    assert found == expected, found
_, snapshots = asked(list('{"amount": 1200}'))
numbers = list(dict.fromkeys(each["amount"] for each in snapshots if isinstance(each, dict) and "amount" in each))
print(f'snapshots of {{"amount": 1200}}, by character: {", ".join(map(str, numbers))}')
assert numbers == [1, 12, 120, 1200], numbers
print("as stated: a number that was cut counts as whole")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
