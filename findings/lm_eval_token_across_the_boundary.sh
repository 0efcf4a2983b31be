#!/usr/bin/env bash
# lm-eval 0.4.13 (package lm_eval), beside tokenizers 0.23.3. A task of choices scores the log probability of a
# continuation after a context. One would assume that every character of the continuation is scored. Its models (hf,
# vllm and all others that derive from TemplateLM) encode context + continuation together, encode the context alone, and
# take the tokens of the whole beyond the context's NUMBER of tokens. Where a token of the whole spans the boundary, the
# two do not fit together: characters of the continuation that are in that token are scored for nobody, and the model
# is asked about the rest after a context that the whole does not have. Where the whole has no more tokens than the
# context, nothing is left to score, and the model's assertion ends the run. Only blanks at the end of a context are
# moved over to avoid it. It matters for code, where signs join ("(" + ")", ":" + newline and indentation), and for any context
# that ends inside a word: choices are compared by numbers that leave out different parts of them, without a word. Check
# that the two lists together are the encoding of the whole, or end contexts where no token can span.
#
# Seen (Python 3.11, Linux x86-64):
#   lm_eval 0.4.13, tokenizers 0.23.3
#   'f(' + ')'      whole ['f', '()']  context ['f', '(']  scored []
#   'f(' + ') + 1'  whole ['f', '()', ' +', ' 1']  context ['f', '(']  scored [' +', ' 1']
#   'f(' + 'x)'     whole ['f', '(', 'x', ')']  context ['f', '(']  scored ['x', ')']
#   'f( ' + ')'      whole ['f', '(', ' )']  context ['f', '(']  scored [' )']
#   as stated: the continuation's ')' is scored for nobody where a token spans the boundary
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lm_eval==0.4.13 tokenizers==0.23.3

cat > "$work/look.py" <<'PY'
import importlib.metadata

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["f", "(", ")", " ", "+", "1", "x", "()", " +", " 1", " )"]
MERGES = [("(", ")"), (" ", "+"), (" ", "1"), (" ", ")")]
tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(WORDS)}, MERGES))


class Listener(TemplateLM):
    """Notes what it is asked to score."""

    eot_token_id = 0

    def tok_encode(self, string, add_special_tokens=None, **rest):
        return tokenizer.encode(string).ids

    def _loglikelihood_tokens(self, requests, **rest):
        self.asked = requests
        return [(0.0, False) for _ in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        return []

    def generate_until(self, requests, disable_tqdm=False):
        return []


def pieces(ids):
    return [WORDS[id] for id in ids]


print(f"lm_eval {importlib.metadata.version('lm_eval')}, tokenizers {importlib.metadata.version('tokenizers')}")
pairs = [("f(", ")"), ("f(", ") + 1"), ("f(", "x)"), ("f( ", ")")]
model = Listener()
model.loglikelihood([Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)], disable_tqdm=True)
scored = []
for (context, continuation), (_, before, after) in zip(pairs, model.asked):
    whole = pieces(tokenizer.encode(context + continuation).ids)
    scored.append(pieces(after))
    print(f"{context!r} + {continuation!r:8} whole {whole}  context {pieces(before)}  scored {scored[-1]}")
assert scored == [[], [" +", " 1"], ["x", ")"], [" )"]], scored
print("as stated: the continuation's ')' is scored for nobody where a token spans the boundary")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
