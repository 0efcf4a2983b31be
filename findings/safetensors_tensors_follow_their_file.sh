#!/usr/bin/env bash
# safetensors 0.8.0 with torch 2.13.0 and numpy 2.4.6. One would assume that a tensor which
# load_file or get_tensor has returned is a value of its own. With torch it is a view of the mapped
# file: when another program writes new bytes into the same file (cp over it, rsync --inplace), the
# tensors that were loaded before change under the program that holds them, without a word. So do
# slices, and so does everything that was made from them without a copy: .contiguous() and .to() of
# the same dtype make none. A file that is renamed into place changes nothing. With numpy,
# load_file copies; safetensors.torch.load of bytes has nothing to follow either.
# It matters wherever a name or a hash stands for loaded weights, as in a cache of prompts by the
# digest of an adapter: numbers of the new file are kept under the digest of the old one.
#
# Seen (Python 3.11, Linux x86-64):
#   safetensors 0.8.0, torch 2.13.0+cpu, numpy 2.4.6
#   load_file (torch)            1.0 -> 2.0
#   get_tensor (torch)           1.0 -> 2.0
#   get_slice (torch)            1.0 -> 2.0
#   contiguous().to(float32)     1.0 -> 2.0
#   load of bytes (torch)        1.0 -> 1.0
#   load_file (numpy)            1.0 -> 1.0
#   as stated: torch's tensors follow the file, numpy's do not
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 safetensors==0.8.0

cat > "$work/look.py" <<'PY'
from pathlib import Path

import numpy
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

print(f"safetensors {safetensors.__version__}, torch {torch.__version__}, numpy {numpy.__version__}")
file, other = Path("weights.safetensors"), Path("other.safetensors")
safetensors.torch.save_file({"w": torch.full((4, 4), 1.0)}, file)
safetensors.torch.save_file({"w": torch.full((4, 4), 2.0)}, other)
with safetensors.safe_open(file, framework="pt") as opened:
    whole, part = opened.get_tensor("w"), opened.get_slice("w")[1:3]
loaded = {
    "load_file (torch)": safetensors.torch.load_file(file)["w"],
    "get_tensor (torch)": whole,
    "get_slice (torch)": part,
    "contiguous().to(float32)": safetensors.torch.load_file(file)["w"].contiguous().to(torch.float32),
    "load of bytes (torch)": safetensors.torch.load(file.read_bytes())["w"],
    "load_file (numpy)": safetensors.numpy.load_file(file)["w"],
}
before = {name: float(values[0, 0]) for name, values in loaded.items()}
with file.open("r+b") as same:
    same.write(other.read_bytes())
after = {name: float(values[0, 0]) for name, values in loaded.items()}
for name in loaded:
    print(f"{name:<28} {before[name]} -> {after[name]}")
assert set(before.values()) == {1.0}
assert list(after.values()) == [2.0] * 4 + [1.0] * 2
print("as stated: torch's tensors follow the file, numpy's do not")
PY
cd "$work"
"$work/venv/bin/python" look.py
