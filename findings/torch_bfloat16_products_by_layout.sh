#!/usr/bin/env bash
# torch 2.13.0 (CPU). A product of bfloat16 matrices on a processor without AVX-512: one would assume
# that it costs about what the same product costs in float32, or that its three directions, which
# forward and backward of one linear layer need, cost the same. They do not. x W^T takes ten times
# the time of float32, g W (the gradient of the input) takes fifty times, g^T x twice. Converting to
# float32, multiplying there and rounding back is the fastest of all, and as near to the exact
# product. float16 is the same, with g^T x slow as well.
# It matters because a training step in bfloat16 runs at a tenth of the machine's speed without a
# word, and a frozen layer is slower than a trained one would suggest: only the direction g W is
# left of its backward pass. Where bfloat16 has no instruction, multiply in float32.
#
# The variables below hold torch and oneDNN to AVX2 on any x86-64 processor.
#
# Seen (Python 3.11, Linux x86-64, one thread; times of the product in float32):
#   torch 2.13.0+cpu, AVX2
#   bfloat16   x W^T   11.7   g W   62.5   g^T x    2.6   float32 and back    1.1
#   float16    x W^T    7.6   g W   69.5   g^T x   25.9   float32 and back    1.1
#   as stated: g W in bfloat16 takes 10 times float32's time or more, and rounding back 3 at most
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0

cat > "$work/look.py" <<'PY'
import time

import torch

torch.set_num_threads(1)
torch.manual_seed(0)
print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")


def seconds(function):
    function()
    times = []
    for _ in range(7):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def directions(dtype):
    x, w, g = (torch.randn(rows, 256).to(dtype) for rows in (512, 256, 512))
    return {
        "x W^T": lambda: x @ w.T, "g W": lambda: g @ w, "g^T x": lambda: g.T @ x,
        "float32 and back": lambda: (g.float() @ w.float()).to(dtype),
    }


unit = min(map(seconds, list(directions(torch.float32).values())[:3]))
seen = {}
for name in ("bfloat16", "float16"):
    for direction, function in directions(getattr(torch, name)).items():
        seen[name, direction] = seconds(function) / unit
    print(f"{name:<10}", *(f"{way} {seen[name, way]:6.1f}  " for way in directions(torch.float32)))
assert seen["bfloat16", "g W"] > 10 and seen["float16", "g W"] > 10
assert seen["bfloat16", "float32 and back"] < 3
print("as stated: g W in bfloat16 takes 10 times float32's time or more, and rounding back 3 at most")
PY
cd "$work"
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 "$work/venv/bin/python" look.py
