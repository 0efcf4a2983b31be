#!/usr/bin/env bash
# tokenizers 0.23.3. An entry of `added_tokens` in a tokenizer.json states its id, so one would assume
# that the token has this id once the file is read. It has it only if `model.vocab` holds the token too,
# or if the id is the next free one: otherwise the library counts on from its own vocabulary and gives
# the tokens the next free ids in the file's order, without an error or a warning. Saving the
# tokenizer writes the new ids. It matters to whoever cuts a vocabulary, converts one from a GGUF
# file, or leaves ids free between vocabulary and special tokens (as padded embeddings do): the text
# of a chat's markers is right, and the model is given other tokens' embeddings. Put added tokens
# into `model.vocab` as well, or compare ids after reading. Wavefold refuses such a file.
#
# Seen (Python 3.11, Linux x86-64):
#   tokenizers 0.23.3, a vocabulary of 4 tokens, added tokens with ids 9 and 7
#   read: <end> 4, <pad> 5; 'ab<end><pad>' is [3, 4, 5]
#   saved: [(4, '<end>'), (5, '<pad>')]
#   with both in model.vocab too: <end> 9, <pad> 7
#   as stated: ids that a file states are replaced by the next free ones
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tokenizers==0.23.3

cat > "$work/look.py" <<'PY'
import importlib.metadata
import json
import sys

from tokenizers import Tokenizer

IDS = {"<end>": 9, "<pad>": 7}


def read(extra):
    added = [
        {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for text, number in IDS.items()
    ]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, **extra}, "merges": [["a", "b"]],
    }
    file = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model}
    return Tokenizer.from_str(json.dumps(file))


alone, both = read({}), read(IDS)
ids = [alone.token_to_id(text) for text in IDS]
encoded = alone.encode("ab<end><pad>").ids
saved = [(entry["id"], entry["content"]) for entry in json.loads(alone.to_str())["added_tokens"]]
in_vocab = [both.token_to_id(text) for text in IDS]
print(f"tokenizers {importlib.metadata.version('tokenizers')}, a vocabulary of 4 tokens, added tokens with ids 9 and 7")
print(f"read: <end> {ids[0]}, <pad> {ids[1]}; 'ab<end><pad>' is {encoded}")
print(f"saved: {saved}")
print(f"with both in model.vocab too: <end> {in_vocab[0]}, <pad> {in_vocab[1]}")
if (ids, encoded, saved, in_vocab) == ([4, 5], [3, 4, 5], [(4, "<end>"), (5, "<pad>")], [9, 7]):
    print("as stated: ids that a file states are replaced by the next free ones")
else:
    print("changed: added tokens keep their ids, or get others than stated")
    sys.exit(1)
PY
"$work/venv/bin/python" "$work/look.py"
