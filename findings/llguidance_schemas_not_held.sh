#!/usr/bin/env bash
# llguidance 1.9.1, JSON schemas compiled with lenient off. The library refuses keywords that it does not support, so one
# would assume that what it accepts, it holds a text to. It accepts each schema below and then also accepts a text that
# breaks it. minProperties counts a key as often as it is written, although a JSON reader keeps one. Integers pass
# through floats, so a const beyond 2^53 asks for its neighbour, and refuses itself. A pattern is read in the syntax of
# Rust, where && inside a class intersects, while ECMAScript, whose syntax JSON Schema names, has two characters there.
# With additionalItems beside it, prefixItems holds nothing. A keyword that is misspelt counts as an annotation, as the
# specification has it. Whoever promises valid output has to look for these before compiling, or validate afterwards.
#
# Seen (Python 3.11, Linux x86-64; jsonschema 4.26.0 as judge):
#   llguidance 1.9.1
#   minProperties  accepts {"a": 1, "a": 1}  jsonschema: not valid
#   const          accepts 9007199254740992  jsonschema: not valid
#   const          refuses 9007199254740993  jsonschema: valid
#   pattern        accepts "B"  jsonschema: valid
#   pattern        accepts "&"  jsonschema: not valid
#   prefixItems    accepts ["no integer"]  jsonschema: not valid
#   minLenght      accepts "a"  jsonschema: valid
#   as stated: schemas that compile without a warning, and texts that break them are accepted
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet llguidance==1.9.1 jsonschema==4.26.0

cat > "$work/look.py" <<'PY'
import importlib.metadata
import json

import jsonschema
import llguidance

END = 256


class Bytes:
    """A vocabulary of single bytes."""

    eos_token_id, bos_token_id, special_token_ids = END, None, [END]
    tokens = [bytes([value]) for value in range(END)] + [b"<end>"]

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())


tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
print(f"llguidance {importlib.metadata.version('llguidance')}")


def accepted(schema, text):
    options = {"lenient": False, "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error() and not matcher.get_grammar_warnings(), matcher.get_error()
    return matcher.try_consume_tokens(list(text.encode())) == len(text) and matcher.is_accepting()


cases = [
    ({"type": "object", "minProperties": 2}, '{"a": 1, "a": 1}', True, False),
    ({"const": 2**53 + 1}, str(2**53), True, False),
    ({"const": 2**53 + 1}, str(2**53 + 1), False, True),
    ({"type": "string", "pattern": "^[^a&&b]$"}, '"B"', True, True),
    ({"type": "string", "pattern": "^[^a&&b]$"}, '"&"', True, False),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "additionalItems": False}, '["no integer"]', True, False),
    ({"type": "string", "minLenght": 5}, '"a"', True, True),
]
for schema, text, takes, valid in cases:
    word = next(key for key in reversed(schema) if key != "additionalItems")
    seen = accepted(schema, text), jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
    print(f"{word:14} {'accepts' if seen[0] else 'refuses'} {text}  jsonschema: {'valid' if seen[1] else 'not valid'}")
    assert seen == (takes, valid), seen
print("as stated: schemas that compile without a warning, and texts that break them are accepted")
PY
cd "$work"
venv/bin/python -W ignore look.py || { echo 'changed: see the lines above'; exit 1; }
