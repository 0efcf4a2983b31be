#!/usr/bin/env bash
# xgrammar 0.2.9, JSON schemas and the structural tag for DeepSeek-V4's tool calls. One would assume that the grammar of
# a schema takes the values that are valid under it. Some it cannot take, and says nothing. A pattern is searched for in
# a value, by JSON Schema; here it is one of the whole value, so "[xy]" asks for a single character. A text inside JSON
# that has a pattern or a length limit admits no escape: no line break, quote or backslash. A pattern is matched with
# the JSON as written, so one that asks for a quote gives text that is no JSON. Arrays and objects of an enum or a const
# are taken without blanks alone, where other arrays may have one after each comma. None of it is an error: a model is
# turned away from the value that it was about to write. Write ^.* and .*$ around a pattern, drop limits of texts that
# may need escapes, and check both with jsonschema afterwards.
#
# Seen (Python 3.11, Linux x86-64; jsonschema 4.26.0 as judge):
#   xgrammar 0.2.9
#   in JSON  {"type": "string", "pattern": "[xy]"}          accepts "x"       valid
#   in JSON  {"type": "string", "pattern": "[xy]"}          refuses "axb"     valid
#   a call   {"type": "string", "pattern": "[xy]"}          refuses axb       valid
#   in JSON  {"type": "string", "pattern": "^.*[xy].*$"}    accepts "axb"     valid
#   in JSON  {"type": "string", "pattern": "^a"}            refuses "ab"      valid
#   in JSON  {"type": "string", "pattern": "^a\"b$"}        refuses "a\"b"    valid
#   in JSON  {"type": "string", "pattern": "^a\"b$"}        accepts "a"b"     no JSON
#   in JSON  {"type": "string"}                             accepts "a\nb"    valid
#   in JSON  {"type": "string", "maxLength": 9}             refuses "a\nb"    valid
#   in JSON  {"type": "string", "minLength": 1}             refuses "a\"b"    valid
#   in JSON  {"type": "string", "maxLength": 9}             refuses "\u00e4"  valid
#   a call   {"type": "string", "maxLength": 9}             accepts a"b       valid
#   a call   {"items": {"type": "string", "maxLength": 9}}  refuses ["a\"b"]  valid
#   in JSON  {"items": {"type": "integer"}}                 accepts [1, 2]    valid
#   in JSON  {"enum": [[1, 2]]}                             accepts [1,2]     valid
#   in JSON  {"enum": [[1, 2]]}                             refuses [1, 2]    valid
#   a call   {"enum": [[1, 2]]}                             refuses [1, 2]    valid
#   in JSON  {"const": {"a": 1}}                            refuses {"a": 1}  valid
#   as stated: schemas that compile without a warning, and valid values are refused
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 tokenizers==0.23.3 \
    xgrammar==0.2.9 apache-tvm-ffi==0.1.15.post2 jsonschema==4.26.0

cat > "$work/look.py" <<'PY'
import importlib.metadata
import json

import jsonschema
import xgrammar

MARK = "｜DSML｜"
END = 256
WORDS = [bytes([value]) for value in range(END)] + [b"<end>"]

vocabulary = xgrammar.TokenizerInfo(WORDS, xgrammar.VocabType.RAW, stop_token_ids=[END])
compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1)
print(f"xgrammar {importlib.metadata.version('xgrammar')}")


def accepted(grammar, text):
    matcher = xgrammar.GrammarMatcher(grammar)
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(END)


def accepted_in_json(schema, text):
    return accepted(compiler.compile_json_schema(json.dumps(schema)), text)


def accepted_in_a_call(schema, text):
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    tag = xgrammar.get_model_structural_tag("deepseek_v4", tools=tools, tool_choice="required", reasoning="disabled")
    string = "true" if schema.get("type") == "string" else "false"
    value = f'<{MARK}parameter name="x" string="{string}">{text}</{MARK}parameter>\n'
    call = f'\n\n<{MARK}tool_calls>\n<{MARK}invoke name="f">\n{value}</{MARK}invoke>\n</{MARK}tool_calls>'
    return accepted(compiler.compile_structural_tag(tag), call)


def judged(schema, text, place):
    try:
        value = text if place == "a call" and schema.get("type") == "string" else json.loads(text)
    except json.JSONDecodeError:
        return "no JSON"
    return "valid" if jsonschema.Draft202012Validator(schema).is_valid(value) else "not valid"


texts = {"type": "string"}
some, quote = texts | {"pattern": "[xy]"}, texts | {"pattern": '^a"b$'}
short, array, choice = texts | {"maxLength": 9}, {"items": {"type": "integer"}}, {"enum": [[1, 2]]}
cases = [
    ("in JSON", some, '"x"', True), ("in JSON", some, '"axb"', False), ("a call", some, "axb", False),
    ("in JSON", texts | {"pattern": "^.*[xy].*$"}, '"axb"', True),
    ("in JSON", texts | {"pattern": "^a"}, '"ab"', False),
    ("in JSON", quote, r'"a\"b"', False), ("in JSON", quote, '"a"b"', True),
    ("in JSON", texts, r'"a\nb"', True), ("in JSON", short, r'"a\nb"', False),
    ("in JSON", texts | {"minLength": 1}, r'"a\"b"', False), ("in JSON", short, r'"\u00e4"', False),
    ("a call", short, 'a"b', True), ("a call", {"items": short}, r'["a\"b"]', False),
    ("in JSON", array, "[1, 2]", True), ("in JSON", choice, "[1,2]", True), ("in JSON", choice, "[1, 2]", False),
    ("a call", choice, "[1, 2]", False), ("in JSON", {"const": {"a": 1}}, '{"a": 1}', False),
]  # fmt: skip
for place, schema, text, takes in cases:
    seen = (accepted_in_a_call if place == "a call" else accepted_in_json)(schema, text)
    verdict = judged(schema, text, place)
    print(f"{place:8} {json.dumps(schema):46} {'accepts' if seen else 'refuses'} {text:9} {verdict}")
    assert seen == takes and verdict == ("no JSON" if text == '"a"b"' else "valid")
print("as stated: schemas that compile without a warning, and valid values are refused")
PY
cd "$work"
venv/bin/python -W ignore look.py || { echo 'changed: see the lines above'; exit 1; }
