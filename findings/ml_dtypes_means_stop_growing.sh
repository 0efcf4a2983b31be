#!/usr/bin/env bash
# ml_dtypes 0.6.0 with numpy 2.4.6. numpy adds up its own float16 in float32 for a mean, and one would assume that the
# mean of an array of bfloat16 is its mean too. sum, mean, std and average add in the narrow type itself, one after
# another, and the sum no longer grows once the next number is below half of its last place: the mean of 1,000 ones is
# 0.256 in bfloat16 and their deviation 0.504, in float8_e4m3fn the mean is 0.0156, in float4_e2m1fn 0, without a warning.
# A product x @ x of the same vector and np.linalg.norm are right. It matters where quantized weights are compared: the
# RMS error of 100,000 numbers rounded to bfloat16 comes out as a quarter of what it is, and reads as a better quantizer.
# Say dtype=np.float32, or convert first.
#
# Seen (Python 3.11, Linux x86-64):
#   numpy 2.4.6, ml_dtypes 0.6.0
#   of 1,000 ones    sum       mean      std       average   x @ x     mean, dtype=np.float32
#   float16          1000      1         0         1         1000      1
#   bfloat16         256       0.2559    0.5039    0.2559    1000      1
#   float8_e5m2      8         0.007812  0.09375   0.007812  1000      1
#   float8_e4m3fn    16        0.01562   0.125     0.01562   1000      1
#   float4_e2m1fn    4         0         0         0         1000      1
#   RMS error of 100,000 normal numbers in bfloat16: 0.000404 by a mean of bfloat16, 0.001660 in float32
#   as stated: sums and means of narrow types stop growing
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 ml_dtypes==0.6.0

cat > "$work/look.py" <<'PY'
import ml_dtypes
import numpy as np

N = 1000
STOPS = {
    ml_dtypes.bfloat16: 256,
    ml_dtypes.float8_e5m2: 8,
    ml_dtypes.float8_e4m3fn: 16,
    ml_dtypes.float4_e2m1fn: 4,
}

print(f"numpy {np.__version__}, ml_dtypes {ml_dtypes.__version__}")
names = ("sum", "mean", "std", "average", "x @ x", "mean, dtype=np.float32")
print(f"{'of 1,000 ones':<17}" + "".join(f"{name:<10}" for name in names))
for kind in (np.float16, *STOPS):
    x = np.ones(N, kind)
    seen = [float(v) for v in (x.sum(), x.mean(), x.std(), np.average(x), x @ x, x.mean(dtype=np.float32))]
    print(f"{np.dtype(kind).name:<17}" + "".join(f"{value:<10.4g}" for value in seen))
    assert seen[4:] == [N, 1.0] and abs(np.linalg.norm(x) - N**0.5) < 0.01
    if kind is np.float16:
        assert seen[:4] == [N, 1.0, 0.0, 1.0]
    else:
        assert seen[0] == STOPS[kind] and seen[1] == seen[3] < 0.3

numbers = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
error = (numbers.astype(ml_dtypes.bfloat16).astype(np.float32) - numbers).astype(ml_dtypes.bfloat16)
narrow = float(np.sqrt(np.mean(error * error)))
wide = float(np.sqrt(np.mean(np.square(error, dtype=np.float32))))
print(f"RMS error of {len(numbers):,} normal numbers in bfloat16: {narrow:.6f} by a mean of bfloat16, {wide:.6f} in float32")
assert narrow < wide / 3
print("as stated: sums and means of narrow types stop growing")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
