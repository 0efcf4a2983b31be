#!/usr/bin/env bash
# xgrammar 0.2.9, get_model_structural_tag("deepseek_v4"), which is to hold a model's tool calls to the schemas of its
# tools. One would assume that what it takes reads as valid arguments, and that `strict: false` takes more than the
# default. It differs in three ways. A text with a limit of its length or a pattern may hold the tag that ends it (one
# without may not): a model ends a value that is too short, the grammar counts the tag as more of the value and asks to
# go on, and a reader has ended there. Where additionalProperties allows other names, a declared parameter can be given
# again, as a value of any type, and JSON readers keep the last; in plain JSON the same schema refuses that. And names
# that the grammar does not spell out must be ASCII identifiers. With `strict: false` the declared ones are not spelt
# out, so a parameter "max-items" cannot be given at all: the looser setting refuses more. Validate the arguments of
# a call, set additionalProperties to false, and take `strict: false` out where names have hyphens, dots or accents.
#
# Seen (Python 3.11, Linux x86-64; deepseek-recipe 0.2.0 as reader, jsonschema 4.26.0 as judge of what it reads):
#   xgrammar 0.2.9
#   no limit, a closing tag in the text       refuses {"x": "a"}              valid
#   minLength, a closing tag in the text      accepts {"x": "a"}              not valid
#   pattern, a closing tag in the text        accepts {"x": "a"}              not valid
#   x twice                                   refuses {"x": 5, "x": "six"}    not valid
#   x twice, additionalProperties             accepts {"x": 5, "x": "six"}    not valid
#   x twice, additionalProperties, in JSON    refuses
#   max-items declared                        accepts {"max-items": 5}        valid
#   max-items declared, strict true           accepts {"max-items": 5}        valid
#   max-items declared, strict false          refuses {"max-items": 5}        valid
#   max.items declared, strict false          refuses {"max.items": 5}        valid
#   größe declared, strict false              refuses {"größe": 5}            valid
#   max_items declared, strict false          accepts {"max_items": 5}        valid
#   max-items by additionalProperties         refuses {"max-items": 5}        valid
#   max_items by additionalProperties         accepts {"max_items": 5}        valid
#   as stated: the tag takes calls whose arguments are not valid, and refuses valid ones
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 tokenizers==0.23.3 \
    xgrammar==0.2.9 apache-tvm-ffi==0.1.15.post2 deepseek-recipe==0.2.0 jsonschema==4.26.0

cat > "$work/look.py" <<'PY'
import importlib.metadata
import json
import re

import deepseek_recipe as recipe
import jsonschema
import xgrammar
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MARK = "｜DSML｜"
BYTES, END = 256, 257  # the marker is one token, as in DeepSeek's vocabulary
WORDS = [bytes([value]) for value in range(BYTES)] + [MARK.encode(), b"<end>"]

vocabulary = xgrammar.TokenizerInfo(WORDS, xgrammar.VocabType.RAW, stop_token_ids=[END])
compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
spelled = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
spelled.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
spelled.decoder = decoders.ByteLevel()
spelled.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<think>", "</think>", MARK)])
spelled.save("tokenizer.json")
print(f"xgrammar {importlib.metadata.version('xgrammar')}")


def accepted(grammar, text):
    matcher = xgrammar.GrammarMatcher(grammar)
    parts = [[BYTES] if part == MARK else part.encode() for part in re.split(f"({MARK})", text)]
    return all(matcher.accept_token(token) for part in parts for token in part) and matcher.accept_token(END)


def held(parameters, call, **strict):
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters, **strict}}]
    tag = xgrammar.get_model_structural_tag("deepseek_v4", tools=tools, tool_choice="required", reasoning="disabled")
    return accepted(compiler.compile_structural_tag(tag), call)


def called(*parameters):
    spelt = "".join(
        f'<{MARK}parameter name="{name}" string="{"true" if isinstance(value, str) else "false"}">{value}'
        f"</{MARK}parameter>\n"
        for name, value in parameters
    )
    return f'\n\n<{MARK}tool_calls>\n<{MARK}invoke name="f">\n{spelt}</{MARK}invoke>\n</{MARK}tool_calls>'


def read(call):
    """The arguments of a call, as deepseek-recipe answers a client."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {"model": "DeepSeek-V4-Pro", "messages": [{"role": "user", "content": "U"}], "tools": tools}
    asked = recipe.ChatCompletionRequest(body).convert(recipe.ConversionOptions(default_thinking_mode=False))
    generator = recipe.ChatCompletionRequest.chunk_generator(asked, "id", "m")
    tokenizer = recipe.Tokenizer.from_file("tokenizer.json")
    processor = recipe.StreamProcessor(generator, asked.parsing_options, tokenizer)
    answer = recipe.ChatCompletionResponse("id", "m", 0, 1, 0)
    chunks = [recipe.InferenceChunk.ready()]
    chunks += [recipe.InferenceChunk.tokens([token]) for token in spelled.encode(call).ids]
    for chunk in [*chunks, recipe.InferenceChunk.finish(recipe.InferenceFinishReason.Stop)]:
        for part in processor.push(chunk):
            answer.accumulate(part)
    (call,) = json.loads(answer.to_json())["choices"][0]["message"]["tool_calls"]
    return call["function"]["arguments"]


def schema_of(**properties):
    return {"type": "object", "properties": properties}


def shown(name, parameters, call, takes, valid, **strict):
    seen, arguments = held(parameters, call, **strict), read(call)
    right = jsonschema.Draft202012Validator(parameters).is_valid(json.loads(arguments))
    print(f"{name:41} {'accepts' if seen else 'refuses'} {arguments:23} {'valid' if right else 'not valid'}")
    assert (seen, right) == (takes, valid)


number, texts, more = {"type": "integer"}, {"type": "string"}, {"additionalProperties": True}
closed = called(("x", f"a</{MARK}parameter>\n</{MARK}invoke>\n</{MARK}tool_calls>"))
shown("no limit, a closing tag in the text", schema_of(x=texts), closed, False, True)
shown("minLength, a closing tag in the text", schema_of(x=texts | {"minLength": 20}), closed, True, False)
shown("pattern, a closing tag in the text", schema_of(x=texts | {"pattern": "^[^,]{20,}$"}), closed, True, False)

twice = called(("x", 5), ("x", "six"))
shown("x twice", schema_of(x=number), twice, False, False)
shown("x twice, additionalProperties", schema_of(x=number) | more, twice, True, False)
plain = accepted(compiler.compile_json_schema(json.dumps(schema_of(x=number) | more)), '{"x": 5, "x": "six"}')
print(f"{'x twice, additionalProperties, in JSON':41} {'accepts' if plain else 'refuses'}")
assert not plain

hyphen, line = called(("max-items", 5)), called(("max_items", 5))
declared = schema_of(**{"max-items": number})
shown("max-items declared", declared, hyphen, True, True)
shown("max-items declared, strict true", declared, hyphen, True, True, strict=True)
shown("max-items declared, strict false", declared, hyphen, False, True, strict=False)
for name in ("max.items", "größe"):
    shown(f"{name} declared, strict false", schema_of(**{name: number}), called((name, 5)), False, True, strict=False)
shown("max_items declared, strict false", schema_of(max_items=number), line, True, True, strict=False)
shown("max-items by additionalProperties", schema_of() | more, hyphen, False, True)
shown("max_items by additionalProperties", schema_of() | more, line, True, True)
print("as stated: the tag takes calls whose arguments are not valid, and refuses valid ones")
PY
cd "$work"
venv/bin/python -W ignore look.py || { echo 'changed: see the lines above'; exit 1; }
