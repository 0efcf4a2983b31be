#!/usr/bin/env bash
# llguidance 1.9.1. A mask of structured output says which tokens may come next. One would assume that it allows every
# token whose bytes the grammar allows there, as the grammar of a choice between two words does while both are open. But
# where the grammar leaves one way to go on, and what follows cannot change how the tokenizer writes it, the mask allows
# just the token that the tokenizer itself would write: a shorter one that spells its beginning is masked although the
# matcher, asked to consume it, takes it. So "allowed by the mask" and "accepted by the matcher" are different questions.
# It matters to whoever checks drafted or given tokens against masks (a valid text in another spelling is refused there,
# and accepted by validate_tokens), who compares masks with another library or with brute force, and who renormalizes
# probabilities over a mask: other spellings of the same text have none.
#
# Seen (Python 3.11, Linux x86-64):
#   llguidance 1.9.1
#   "cat" | "cow"   after ''    mask ['c', 'ca', 'co', 'cow']  consumable ['c', 'ca', 'co', 'cow']
#   "cat" | "cow"   after 'c'   mask ['a', 'o', 'at', 'ow']  consumable ['a', 'o', 'at', 'ow']
#   "cat" | "cow"   after 'ca'  mask ['t']  consumable ['t']
#   "cow"           after ''    mask ['cow']  consumable ['c', 'co', 'cow']
#   as stated: where bytes are forced the mask has fewer tokens than the matcher takes
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet llguidance==1.9.1 numpy==2.4.6

cat > "$work/look.py" <<'PY'
import importlib.metadata

import llguidance
import llguidance.numpy

TOKENS = [b"</s>", b"a", b"c", b"o", b"t", b"w", b"ca", b"co", b"at", b"ow", b"cow"]


class Vocabulary:
    eos_token_id, bos_token_id, tokens, special_token_ids = 0, None, TOKENS, [0]

    def __call__(self, text):
        """The longest token at each place, as this tokenizer would write a text."""
        text, ids = text.encode() if isinstance(text, str) else text, []
        while text:
            best = max((t for t in TOKENS[1:] if text.startswith(t)), key=len)
            ids.append(TOKENS.index(best))
            text = text[len(best) :]
        return ids


tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary()))
print(f"llguidance {importlib.metadata.version('llguidance')}")


def looked(grammar, before):
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(f"start: {grammar}\n"))
    assert not matcher.is_error(), matcher.get_error()
    for token in before:
        assert matcher.consume_token(TOKENS.index(token))
    words = llguidance.numpy.allocate_token_bitmask(1, len(TOKENS))
    llguidance.numpy.fill_next_token_bitmask(matcher, words)
    mask = [t.decode() for n, t in enumerate(TOKENS) if n and int(words[0, 0]) >> n & 1]
    taken = [t.decode() for n, t in enumerate(TOKENS) if n and matcher.validate_tokens([n]) == 1]
    print(f"{grammar:15} after {b''.join(before).decode()!r:5} mask {mask}  consumable {taken}")
    return sorted(mask), sorted(taken)


seen = [
    looked('"cat" | "cow"', []), looked('"cat" | "cow"', [b"c"]), looked('"cat" | "cow"', [b"ca"]), looked('"cow"', [])
]
for mask, taken in seen:
    assert set(mask) <= set(taken)
assert seen[1][0] == seen[1][1] and seen[3][0] == ["cow"] and seen[3][1] == ["c", "co", "cow"], seen
print("as stated: where bytes are forced the mask has fewer tokens than the matcher takes")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
