#!/usr/bin/env bash
# deepseek-recipe 0.2.0 and openai 3.57.0, the Responses protocol. The library makes the JSON of a response, and the
# client has a type for it. One would assume that the second describes the first. The type requires
# usage.input_tokens_details.cache_write_tokens, which the library never writes. The client reads answers without
# validating them, so the call succeeds, and the field that the type calls an int is None: a program that adds it up
# raises a TypeError after the answer has come. Validated, as typed proxies do, the whole answer is refused.
# Whoever serves this protocol through the library should add the field.
#
# Seen (Python 3.11, Linux x86-64):
#   deepseek-recipe 0.2.0, openai 3.57.0
#   input_tokens_details as written     {"cached_tokens": 1}
#   validated by the type               refused: usage.input_tokens_details.cache_write_tokens: Field required
#   read as the client reads answers    cached_tokens 1, cache_write_tokens None
#   as stated: a response of the library is not one by the client's own type
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet deepseek-recipe==0.2.0 tokenizers==0.23.3 openai==3.57.0

cat > "$work/look.py" <<'PY'
import importlib.metadata
import json

import deepseek_recipe as recipe
import pydantic
from openai.types.responses import Response
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MARKERS = [
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜"
]  # fmt: skip

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
spelled = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
spelled.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
spelled.decoder = decoders.ByteLevel()
spelled.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS])
spelled.save("tokenizer.json")
tokenizer = recipe.Tokenizer.from_file("tokenizer.json")
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("deepseek-recipe", "openai")))

request = recipe.ResponsesRequest(json.dumps({"model": "DeepSeek-V4-Pro", "input": "U"}).encode())
echo = request.echo()
asked = request.convert(recipe.ConversionOptions(default_thinking_mode=False))
generator = recipe.ResponsesRequest.chunk_generator(asked, "resp_1", "m").with_echo(echo)
processor = recipe.StreamProcessor(generator, asked.parsing_options, tokenizer)
usage = recipe.PromptUsage(prompt_tokens=3, prompt_cache_hit_tokens=1)
steps = [recipe.InferenceChunk.ready(prompt_usage=usage)]
steps += [recipe.InferenceChunk.tokens([token]) for token in spelled.encode("Hi").ids]
steps += [recipe.InferenceChunk.finish(recipe.InferenceFinishReason.Stop)]
events = [json.loads(event.to_json()) for step in steps for event in processor.push(step)]
(response,) = [event["response"] for event in events if event["type"] == "response.completed"]

written = response["usage"]["input_tokens_details"]
print(f"{'input_tokens_details as written':35} {json.dumps(written)}")
try:
    Response.model_validate(response)
    refusals = []
except pydantic.ValidationError as error:
    refusals = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
print(f"{'validated by the type':35} refused: {'; '.join(refusals)}")
details = Response.construct(**response).usage.input_tokens_details
found = details.cached_tokens, details.cache_write_tokens
print(f"{'read as the client reads answers':35} cached_tokens {found[0]}, cache_write_tokens {found[1]}")
assert written == {"cached_tokens": 1}
assert refusals == ["usage.input_tokens_details.cache_write_tokens: Field required"]
assert found == (1, None)
print("as stated: a response of the library is not one by the client's own type")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
