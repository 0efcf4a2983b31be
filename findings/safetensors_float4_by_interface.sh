#!/usr/bin/env bash
# safetensors 0.8.0 with torch 2.13.0, numpy 2.4.6 and ml_dtypes 0.6.0. One would assume that a file
# which load_file reads can be read through the other doors of the same library. For F4 (two values
# in a byte) and F8_E8M0 each door has its own mind: torch's load_file reads both; torch's
# load(bytes) raises KeyError for either; get_slice gives F8_E8M0 but any slice of F4 raises, the
# full one too, because get_shape() counts single values ([2, 8]) while the tensor is [2, 4] in
# bytes; numpy's save_file writes F8_E8M0 and numpy's load_file cannot read it back. It matters to
# converters and servers that read checkpoints lazily, by slices, from memory, or through numpy, and
# find out at the first FP4 expert. Save packed FP4 as I8 and scales as U8 where such readers must
# work.
#
# Seen (Python 3.11, Linux x86-64):
#   safetensors 0.8.0, torch 2.13.0+cpu, numpy 2.4.6, ml_dtypes 0.6.0
#   torch load_file         F4 ok            F8_E8M0 ok
#   torch load(bytes)       F4 KeyError      F8_E8M0 KeyError
#   torch get_slice()[:]    F4 RuntimeError  F8_E8M0 ok
#   numpy load_file         F4 AttributeError F8_E8M0 AttributeError
#   shape of the F4 tensor: tensor [2, 4], get_shape() [2, 8]
#   numpy: save_file of float8_e8m0fnu ok, load_file of that file AttributeError
#   as stated: F4 and F8_E8M0 are readable through some interfaces only
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 ml_dtypes==0.6.0 \
    safetensors==0.8.0

cat > "$work/look.py" <<'PY'
import ml_dtypes
import numpy
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

tensors = {
    "F4": torch.arange(8, dtype=torch.uint8).view(2, 4).view(torch.float4_e2m1fn_x2),
    "F8_E8M0": torch.full((2, 4), 8.0).to(torch.float8_e8m0fnu),
}


def outcome(action):
    try:
        action()
        return "ok"
    except Exception as error:
        return type(error).__name__


def cut(file):
    with safetensors.safe_open(file, "pt") as f:
        (name,) = f.keys()
        return f.get_slice(name)[:]


doors = {
    "torch load_file": safetensors.torch.load_file,
    "torch load(bytes)": lambda file: safetensors.torch.load(open(file, "rb").read()),
    "torch get_slice()[:]": cut,
    "numpy load_file": safetensors.numpy.load_file,
}
libraries = f"torch {torch.__version__}, numpy {numpy.__version__}, ml_dtypes {ml_dtypes.__version__}"
print(f"safetensors {safetensors.__version__}, {libraries}")
for name, tensor in tensors.items():
    safetensors.torch.save_file({name: tensor}, f"{name}.safetensors")
seen = {}
for door, read in doors.items():
    seen[door] = [outcome(lambda: read(f"{name}.safetensors")) for name in tensors]
    print(f"{door:<23} F4 {seen[door][0]:<13} F8_E8M0 {seen[door][1]}")
assert list(seen.values()) == [
    ["ok", "ok"],
    ["KeyError", "KeyError"],
    ["RuntimeError", "ok"],
    ["AttributeError", "AttributeError"],
]

with safetensors.safe_open("F4.safetensors", "pt") as f:
    shapes = list(f.get_tensor("F4").shape), f.get_slice("F4").get_shape()
print(f"shape of the F4 tensor: tensor {shapes[0]}, get_shape() {shapes[1]}")
assert shapes == ([2, 4], [2, 8])

scales = {"scale": numpy.ones(4, dtype=ml_dtypes.float8_e8m0fnu)}
wrote = outcome(lambda: safetensors.numpy.save_file(scales, "scale.safetensors"))
read = outcome(lambda: safetensors.numpy.load_file("scale.safetensors"))
print(f"numpy: save_file of float8_e8m0fnu {wrote}, load_file of that file {read}")
assert (wrote, read) == ("ok", "AttributeError")
print("as stated: F4 and F8_E8M0 are readable through some interfaces only")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
