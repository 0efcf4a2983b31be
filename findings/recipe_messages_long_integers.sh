#!/usr/bin/env bash
# deepseek-recipe 0.2.0, a call of a tool whose argument is an integer of more than 64 bits (a hash, an amount in the
# smallest unit, an id), which JSON allows and DeepSeek-V4's form writes digit by digit. One would assume that the
# protocols of one library give a client the number that the model wrote. In Chat arguments are text, and it is kept; so
# it is in the pieces of a Messages stream. A whole Messages answer, made of the very same chunks, has a float in its
# place, without an error: 184467440737095516190 becomes 1.844674407370955e+20. Whoever serves Messages should make the
# answer's `input` of the streamed text, and hand such numbers to tools as strings.
#
# Seen (Python 3.11, Linux x86-64):
#   deepseek-recipe 0.2.0, written by the model: {"n": 184467440737095516190}
#   Chat, whole answer         {"n": 184467440737095516190}
#   Messages, streamed         {"n": 184467440737095516190}
#   Messages, whole answer     {"n": 1.844674407370955e+20}
#   as stated: a whole Messages answer rounds a long integer, its stream and the other protocol do not
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet deepseek-recipe==0.2.0 tokenizers==0.23.3

cat > "$work/look.py" <<'PY'
import importlib.metadata
import json

import deepseek_recipe as recipe
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MARKERS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜"]
LONG = "184467440737095516190"
CALL = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="n" string="false">'
    f"{LONG}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
spelled = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
spelled.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
spelled.decoder = decoders.ByteLevel()
spelled.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS])
spelled.save("tokenizer.json")
tokenizer = recipe.Tokenizer.from_file("tokenizer.json")
print(f"deepseek-recipe {importlib.metadata.version('deepseek-recipe')}, written by the model: {{\"n\": {LONG}}}")


def answered(request, response, body):
    """A protocol's chunks, and its whole answer made of them, as JSON."""
    asked = request(body).convert(recipe.ConversionOptions(default_thinking_mode=False))
    processor = recipe.StreamProcessor(request.chunk_generator(asked, "id", "m"), asked.parsing_options, tokenizer)
    whole, pieces = response("id", "m", 0, 1, 0), []
    tokens = spelled.encode(CALL, add_special_tokens=False).ids
    chunks = [recipe.InferenceChunk.ready(), *(recipe.InferenceChunk.tokens([token]) for token in tokens)]
    for chunk in [*chunks, recipe.InferenceChunk.finish(recipe.InferenceFinishReason.Stop)]:
        for part in processor.push(chunk):
            pieces.append(json.loads(part.to_json()))
            whole.accumulate(part)
    return pieces, whole.to_json()


schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
body = {"model": "DeepSeek-V4-Pro", "messages": [{"role": "user", "content": "U"}]}
_, chat = answered(
    recipe.ChatCompletionRequest, recipe.ChatCompletionResponse,
    body | {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]},
)  # fmt: skip
(call,) = json.loads(chat)["choices"][0]["message"]["tool_calls"]
pieces, messages = answered(
    recipe.MessagesRequest, recipe.MessagesResponse,
    body | {"max_tokens": 100, "tools": [{"name": "f", "input_schema": schema}]},
)  # fmt: skip
deltas = (piece["delta"] for piece in pieces if piece["type"] == "content_block_delta")
streamed = "".join(delta["partial_json"] for delta in deltas if delta["type"] == "input_json_delta")
(block,) = (block for block in json.loads(messages)["content"] if block["type"] == "tool_use")
print(f"Chat, whole answer         {call['function']['arguments']}")
print(f"Messages, streamed         {streamed}")
print(f"Messages, whole answer     {json.dumps(block['input'])}")
assert json.loads(call["function"]["arguments"]) == json.loads(streamed) == {"n": int(LONG)}
assert isinstance(block["input"]["n"], float)
print("as stated: a whole Messages answer rounds a long integer, its stream and the other protocol do not")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
