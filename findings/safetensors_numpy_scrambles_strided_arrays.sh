#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6. safetensors.torch refuses a tensor that is not contiguous, so
# one would assume that safetensors.numpy refuses it too, or packs it. It does neither: a transposed
# array is written with its new shape and its old bytes, a column slice with bytes of whole rows;
# both files are valid and hold other numbers, and nothing is said. It matters to whoever converts
# checkpoints with numpy, where `.T` and `[:, ::2]` are views: a transposed projection comes out
# scrambled with the right shape and the right mean and spread. Pass numpy.ascontiguousarray(x).
#
# Seen (Python 3.11, Linux x86-64):
#   safetensors 0.8.0, numpy 2.4.6
#   transposed  wrote [[0, 3], [1, 4], [2, 5]]  read [[0, 1], [2, 3], [4, 5]]
#   columns     wrote [[0, 2], [3, 5]]  read [[0, 1], [2, 3]]
#   packed      wrote [[0, 3], [1, 4], [2, 5]]  read [[0, 3], [1, 4], [2, 5]]
#   as stated: views are saved with other numbers, without an error
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 safetensors==0.8.0

cat > "$work/look.py" <<'PY'
import numpy
import safetensors
from safetensors.numpy import load_file, save_file

weight = numpy.arange(6, dtype=numpy.int32).reshape(2, 3)
arrays = {
    "transposed": weight.T,
    "columns": weight[:, ::2],
    "packed": numpy.ascontiguousarray(weight.T),
}
print(f"safetensors {safetensors.__version__}, numpy {numpy.__version__}")
same = {}
for name, array in arrays.items():
    save_file({"x": array}, f"{name}.safetensors")
    back = load_file(f"{name}.safetensors")["x"]
    assert back.shape == array.shape
    same[name] = bool((back == array).all())
    print(f"{name:<11} wrote {array.tolist()}  read {back.tolist()}")
assert same == {"transposed": False, "columns": False, "packed": True}
print("as stated: views are saved with other numbers, without an error")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
