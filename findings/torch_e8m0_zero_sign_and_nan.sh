#!/usr/bin/env bash
# torch 2.13.0 (CPU) and ml_dtypes 0.6.0. float8_e8m0fnu holds powers of two only: no zero, no sign,
# one NaN (byte 255). One would assume that a cast of zero or of a negative number gives NaN, that a
# comparison with 0 is False, and that a number is either finite or NaN. torch drops the sign (-2.5
# gives 2), makes 2^-127 of zero, in torch.zeros too, and still says that this equals 0 (the 0 is
# cast first), until it is converted to float32; ml_dtypes gives NaN for zero and for every negative
# number. And torch says of byte 255 both isnan True and isfinite True, so a guard written with
# isfinite passes NaN scales. It matters because the scale of an all-zero block (a pruned or never
# used expert) is the first zero a quantizer meets: one library stores a tiny scale, the other a NaN
# that spreads to the block.
#
# Seen (Python 3.11, Linux x86-64):
#   torch 2.13.0+cpu, ml_dtypes 0.6.0
#   from   [0.0, -1.0, -2.5, 1.5, inf]
#   torch  [5.877471754111438e-39, 1.0, 2.0, 2.0, nan]
#   numpy  [nan, nan, nan, 2.0, nan]
#   torch.zeros: byte 0, value 5.877471754111438e-39, equal to 0: True, as float32: False
#   byte 255: isnan True, isfinite True
#   as stated: torch keeps no zero and no sign, ml_dtypes gives nan, NaN counts as finite
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 ml_dtypes==0.6.0

cat > "$work/look.py" <<'PY'
import math

import ml_dtypes
import torch

e8m0 = torch.float8_e8m0fnu
values = torch.tensor([0.0, -1.0, -2.5, 1.5, math.inf])
in_torch = values.to(e8m0).float().tolist()
in_numpy = values.numpy().astype(ml_dtypes.float8_e8m0fnu).astype("f4").tolist()
print(f"torch {torch.__version__}, ml_dtypes {ml_dtypes.__version__}")
print("from  ", values.tolist())
print("torch ", in_torch)
print("numpy ", in_numpy)
assert in_torch[:4] == [2.0**-127, 1.0, 2.0, 2.0] and math.isnan(in_torch[4])
assert in_numpy[3] == 2.0 and all(math.isnan(v) for i, v in enumerate(in_numpy) if i != 3)

zero = torch.zeros(1, dtype=e8m0)
byte, value = zero.view(torch.uint8).item(), zero.item()
equal, wide = (zero == 0).item(), (zero.float() == 0).item()
print(f"torch.zeros: byte {byte}, value {value}, equal to 0: {equal}, as float32: {wide}")
assert (byte, value, equal, wide) == (0, 2.0**-127, True, False)

nan = torch.tensor([255], dtype=torch.uint8).view(e8m0)
isnan, isfinite = torch.isnan(nan).item(), torch.isfinite(nan).item()
print(f"byte 255: isnan {isnan}, isfinite {isfinite}")
assert isnan and isfinite
print("as stated: torch keeps no zero and no sign, ml_dtypes gives nan, NaN counts as finite")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
