#!/usr/bin/env bash
# llguidance 1.9.1. LLMatcher.is_stopped() says that nothing may follow, which one would take for "the text is complete"; the
# name of the method and its use as the end of a loop suggest so. It is also true after an internal error, such as a row of
# the parser that grows beyond its limit. That happens amid a text: a grammar with 2,500 alternatives compiles without
# an error or a warning, its first mask is right, and the first token is refused. From then on is_stopped() is True, and
# every mask allows the end of sequence and nothing else. A loop that ends on is_stopped(), or that samples from masks,
# returns a text that was cut and counts it as finished. is_error(), or stop_reason(), tells the two apart. The same
# alternatives as one lexeme instead of a rule meet no limit.
#
# Seen (Python 3.11, Linux x86-64):
#   llguidance 1.9.1
#   rule:   compiled, error False, warnings []
#   rule:   after "item" stopped True accepting False error True reason InternalError, mask allows ['<end>']
#   lexeme: after "item" stopped False accepting False error False reason NotStopped, mask allows [' ']
#   as stated: a matcher in error says that it has stopped, and its mask allows the end
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet llguidance==1.9.1 numpy==2.4.6

cat > "$work/look.py" <<'PY'
import importlib.metadata
import json

import llguidance
import llguidance.numpy

TOKENS = [bytes([value]) for value in range(256)] + [b"item", b"<end>"]
END = len(TOKENS) - 1


class Vocabulary:
    eos_token_id, bos_token_id, special_token_ids, tokens = END, None, [END], TOKENS

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())


tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary()))
print(f"llguidance {importlib.metadata.version('llguidance')}")
words = " | ".join(json.dumps(f"item {n} x") for n in range(2500))
seen = []
for name, grammar in (("rule", f"start: {words}\n"), ("lexeme", f"start: WORD\nWORD: {words}\n")):
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar), log_level=0)
    assert not matcher.is_error() and not matcher.get_grammar_warnings()
    if name == "rule":
        print(f"rule:   compiled, error {matcher.is_error()}, warnings {matcher.get_grammar_warnings()}")
    matcher.consume_token(TOKENS.index(b"item"))
    mask = llguidance.numpy.allocate_token_bitmask(1, len(TOKENS))
    llguidance.numpy.fill_next_token_bitmask(matcher, mask)
    allowed = [TOKENS[n].decode("latin1") for n in range(len(TOKENS)) if int(mask[0, n // 32]) >> n % 32 & 1]
    state = (matcher.is_stopped(), matcher.is_accepting(), matcher.is_error(), matcher.stop_reason(), allowed)
    print(f"{name + ':':7} after \"item\" stopped {state[0]} accepting {state[1]} error {state[2]} reason {state[3]}, "
          f"mask allows {allowed}")
    seen.append(state)
assert seen[0] == (True, False, True, "InternalError", ["<end>"]), seen[0]
assert seen[1] == (False, False, False, "NotStopped", [" "]), seen[1]
print("as stated: a matcher in error says that it has stopped, and its mask allows the end")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
