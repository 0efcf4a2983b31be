#!/usr/bin/env bash
# torch 2.13.0 (CPU) and numpy 2.4.6. One would assume that 127 / t is the quotient of each element, correctly rounded,
# as IEEE 754 and numpy have it, and as torch itself gives it where both sides are tensors. torch multiplies a number by
# the reciprocal of a tensor instead, which rounds twice: a quarter of the quotients are another float32. Quantizers are
# written in just this form (scale = 127 / amax, 448 / amax for e4m3): of blocks of 32 values some codes come out one
# step apart from an implementation that divides, so that two programs that state the same formula give different bytes,
# and a bit-exact test fails a few times in a million. Divide a tensor by a tensor: torch.full_like(t, 127) / t, or
# torch.div(torch.tensor(127.0), t).
#
# Seen (Python 3.11, Linux x86-64):
#   torch 2.13.0+cpu, numpy 2.4.6
#   127 / 3: torch 42.333335876464844, numpy 42.33333206176758
#   of 200,000 quotients 49,683 differ from numpy; tensor by tensor: 0
#   of 3,200,000 int8 codes of random blocks 4 differ
#   as stated: a number over a tensor is the number times a reciprocal
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6

cat > "$work/look.py" <<'PY'
import numpy
import torch

print(f"torch {torch.__version__}, numpy {numpy.__version__}")
three = torch.tensor([3.0])
by_number, by_numpy = (127 / three).item(), float(numpy.float32(127) / numpy.float32(3))
print(f"127 / 3: torch {by_number}, numpy {by_numpy}")
assert by_number != by_numpy and (torch.full_like(three, 127) / three).item() == by_numpy

t = torch.arange(1, 200_001, dtype=torch.float32) / 1000
right = numpy.float32(127) / t.numpy()
differ = int(((127 / t).numpy() != right).sum())
tensors = int(((torch.full_like(t, 127) / t).numpy() != right).sum())
print(f"of {len(t):,} quotients {differ:,} differ from numpy; tensor by tensor: {tensors}")
assert differ > 10_000 and tensors == 0

x = torch.randn(100_000, 32, generator=torch.Generator().manual_seed(0))
amax = x.abs().amax(1, keepdim=True)
one, other = (x * (127 / amax)).round(), (x * (torch.full_like(amax, 127) / amax)).round()
codes = int((one != other).sum())
print(f"of {x.numel():,} int8 codes of random blocks {codes} differ")
assert codes > 0
print("as stated: a number over a tensor is the number times a reciprocal")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
