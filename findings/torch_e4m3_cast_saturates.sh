#!/usr/bin/env bash
# torch 2.13.0 (CPU) and ml_dtypes 0.6.0. float8_e4m3fn has no infinity, so one would assume that a
# cast of what does not fit gives NaN, as torch's other float8 types give NaN or inf, or that at
# least an infinity stays visible. In torch everything from 449 to inf becomes 448, and -inf becomes
# -448; float8_e5m2 keeps inf and the fnuz types give NaN; ml_dtypes gives NaN for the same e4m3
# cast from 465 on. Even torch.full depends on the size: one element of inf saturates, two raise
# RuntimeError. It matters because an overflow in training (inf in the weights or the activations)
# is laundered into plain finite FP8 numbers, where no isnan or isinf check finds it, and because a
# converter on numpy and one on torch write different bytes: look for inf before the cast.
#
# Seen (Python 3.11, Linux x86-64):
#   torch 2.13.0+cpu, ml_dtypes 0.6.0
#   from           [448.0, 464.0, 465.0, 1e+30, inf, -inf]
#   e4m3fn torch   [448.0, 448.0, 448.0, 448.0, 448.0, -448.0]
#   e4m3fn numpy   [448.0, 448.0, nan, nan, nan, nan]
#   e5m2   torch   [448.0, 448.0, 448.0, inf, inf, -inf]
#   e5m2   numpy   [448.0, 448.0, 448.0, inf, inf, -inf]
#   inf in e4m3fn: torch.tensor 448.0, torch.full of one 448.0, torch.full of two RuntimeError
#   as stated: torch turns inf into 448 in e4m3fn, ml_dtypes into nan
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 ml_dtypes==0.6.0

cat > "$work/look.py" <<'PY'
import math

import ml_dtypes
import torch

inf = math.inf
values = torch.tensor([448.0, 464.0, 465.0, 1e30, inf, -inf])
print(f"torch {torch.__version__}, ml_dtypes {ml_dtypes.__version__}")
print(f"{'from':<14}", [float(f"{v:g}") for v in values.tolist()])
seen = {}
for name in ("e4m3fn", "e5m2"):
    seen[name, "torch"] = values.to(getattr(torch, f"float8_{name}")).float().tolist()
    seen[name, "numpy"] = values.numpy().astype(getattr(ml_dtypes, f"float8_{name}")).astype("f4").tolist()
    for library in ("torch", "numpy"):
        print(f"{name:<6} {library:<7}", seen[name, library])
assert seen["e4m3fn", "torch"] == [448.0] * 5 + [-448.0]
assert seen["e4m3fn", "numpy"][:2] == [448.0] * 2 and all(map(math.isnan, seen["e4m3fn", "numpy"][2:]))
assert seen["e5m2", "torch"] == seen["e5m2", "numpy"] == [448.0] * 3 + [inf, inf, -inf]


def full(size):
    try:
        return torch.full((size,), inf, dtype=torch.float8_e4m3fn)[0].item()
    except RuntimeError as error:
        return type(error).__name__


made = torch.tensor(inf, dtype=torch.float8_e4m3fn).item(), full(1), full(2)
print("inf in e4m3fn: torch.tensor {}, torch.full of one {}, torch.full of two {}".format(*made))
assert made == (448.0, 448.0, "RuntimeError")
print("as stated: torch turns inf into 448 in e4m3fn, ml_dtypes into nan")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
