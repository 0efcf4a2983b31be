#!/usr/bin/env bash
# safetensors 0.8.0. One would assume that saving the same tensors with the same metadata gives the
# same file. The tensors are laid out in a fixed order, but the keys of __metadata__ are written in
# an order that changes from call to call (a hash map with a random seed, it seems), so the bytes
# and the SHA-256 differ while every loader sees equal content; with no metadata or one key the file
# is the same each time. It matters for reproducible builds, for content-addressed or deduplicating
# stores, and for anyone who compares checkpoints by their hash: keep to one metadata key, such as
# {"format": "pt"}, with the rest as JSON inside one value.
#
# Seen (Python 3.11, Linux x86-64):
#   safetensors 0.8.0
#   no metadata:   1 distinct file(s) in 40 saves
#   one key:       1 distinct file(s) in 40 saves
#   four keys:     several distinct files in 40 saves, one content
#   as stated: with several metadata keys the bytes change between saves
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 safetensors==0.8.0

cat > "$work/look.py" <<'PY'
import hashlib

import numpy
import safetensors
from safetensors.numpy import load, save

tensors = {"b": numpy.ones(4, dtype=numpy.float32), "a": numpy.zeros(2, dtype=numpy.int64)}
choices = {
    "no metadata": None,
    "one key": {"format": "pt"},
    "four keys": {"format": "pt", "step": "100", "run": "one", "source": "trainer"},
}
print(f"safetensors {safetensors.__version__}")
distinct = {}
for name, metadata in choices.items():
    files = [save(tensors, metadata) for _ in range(40)]
    assert all((load(file)["b"] == 1).all() and len(file) == len(files[0]) for file in files)
    distinct[name] = len({hashlib.sha256(file).hexdigest() for file in files})
    count = "several distinct files" if distinct[name] > 1 else "1 distinct file(s)"
    print(f"{name + ':':<14} {count} in 40 saves{', one content' if distinct[name] > 1 else ''}")
assert distinct["no metadata"] == distinct["one key"] == 1 and distinct["four keys"] > 1
print("as stated: with several metadata keys the bytes change between saves")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
