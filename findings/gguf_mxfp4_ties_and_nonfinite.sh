#!/usr/bin/env bash
# gguf 0.19.0, beside ml_dtypes 0.6.0. One would assume that the MXFP4 quantizer rounds ties to
# even, as the FP4 cast of ml_dtypes does, and that NaN or inf in a block shows afterwards. Ties go
# towards zero (0.75 gives 0.5, 1.75 gives 1.5, 3.5 gives 3, where even would be 1, 2, 4), small
# negative numbers become +0, a largest value between 6 and 8 times the scale is cut to 6, and one
# inf or NaN turns all 32 numbers of its block into zeros. It matters to whoever compares a GGUF
# file with the same model quantized elsewhere (every tie is a difference, always towards smaller
# weights), and to whoever converts a run that overflowed: the file looks clean, and a piece of each
# broken row is zero.
#
# Seen (Python 3.11, Linux x86-64):
#   gguf 0.19.0, ml_dtypes 0.6.0
#   from   [6.0, 0.75, 1.75, 2.5, 3.5, 5.0, -0.75, -0.1]
#   gguf   [6.0, 0.5, 1.5, 2.0, 3.0, 4.0, -0.5, 0.0]
#   cast   [6.0, 1.0, 2.0, 2.0, 4.0, 4.0, -1.0, -0.0]
#   largest value 6.0, 6.5, 7.9, 8.0 becomes 6.0, 6.0, 6.0, 8.0
#   31 ones beside inf: sum 0.0, beside nan: sum 0.0, beside 1: sum 31.0
#   as stated: ties go to zero, 6 to 8 is cut to 6, a block with inf or nan becomes zeros
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 gguf==0.19.0 ml_dtypes==0.6.0

cat > "$work/look.py" <<'PY'
import importlib.metadata
import math
import warnings

import ml_dtypes
import numpy
from gguf import GGMLQuantizationType, quants

warnings.simplefilter("ignore")
numpy.seterr(all="ignore")


def through(*values):
    block = numpy.zeros((1, 32), dtype=numpy.float32)
    block[0, : len(values)] = values
    packed = quants.quantize(block, GGMLQuantizationType.MXFP4)
    return quants.dequantize(packed, GGMLQuantizationType.MXFP4)[0, : len(values)].tolist()


print(f"gguf {importlib.metadata.version('gguf')}, ml_dtypes {ml_dtypes.__version__}")
values = [6.0, 0.75, 1.75, 2.5, 3.5, 5.0, -0.75, -0.1]
print("from  ", values)
print("gguf  ", through(*values))
cast = numpy.array(values, dtype="f4").astype(ml_dtypes.float4_e2m1fn).astype("f4").tolist()
print("cast  ", cast)
assert cast == [6.0, 1.0, 2.0, 2.0, 4.0, 4.0, -1.0, 0.0]
assert through(*values) == [6.0, 0.5, 1.5, 2.0, 3.0, 4.0, -0.5, 0.0]
assert math.copysign(1, through(*values)[-1]) == 1

largest = [6.0, 6.5, 7.9, 8.0]
cut = [through(value)[0] for value in largest]
print(f"largest value {str(largest)[1:-1]} becomes {str(cut)[1:-1]}")
assert cut == [6.0, 6.0, 6.0, 8.0]

sums = {name: sum(through(first, *[1.0] * 31)[1:]) for name, first in (("inf", math.inf), ("nan", math.nan), ("1", 1.0))}
print("31 ones " + ", ".join(f"beside {name}: sum {total}" for name, total in sums.items()))
assert sums == {"inf": 0.0, "nan": 0.0, "1": 31.0}
print("as stated: ties go to zero, 6 to 8 is cut to 6, a block with inf or nan becomes zeros")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
