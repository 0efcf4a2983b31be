#!/usr/bin/env bash
# torchao 0.18.0, gguf 0.19.0, breccia 0.1.3. MXFP4 is one standard (OCP MX), so one would assume that
# the 16 bytes of a block of 32 values are the same in each library, and that the scale is. The
# standard names the codes and the scale, not the places: torchao puts value 2i into the low half of
# byte i (as DeepSeek-V4's files have it), breccia into the high half, and gguf pairs value i with
# value i + 16. The three have equal size and block scale, and bytes read in another order are a
# permutation of the block: its sum, its largest value and its histogram are all right, and only the
# product with activations is wrong. It matters to whoever moves packed FP4 between tools, or checks
# such a move by statistics. Compare values by position, after decoding with both. Wavefold's
# FP4 has the order of DeepSeek-V4's files, low half first.
#
# Seen (Python 3.11, Linux x86-64):
#   torchao 0.18.0, breccia 0.1.3, gguf 0.19.0
#   scale bytes: torchao 127, gguf 127
#   torchao  bytes [16, 50, 84, 118]..., read low half first: 32 of 32 in place, sum 36.0, largest 6.0
#   breccia  bytes [1, 35, 69, 103]..., read low half first: 0 of 32 in place, sum 36.0, largest 6.0
#   gguf     bytes [0, 145, 162, 179]..., read low half first: 4 of 32 in place, sum 36.0, largest 6.0
#   as stated: three byte orders of one block, equal in size, scale and statistics
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 torchao==0.18.0 gguf==0.19.0 breccia==0.1.3

cat > "$work/look.py" <<'PY'
import importlib.metadata
import logging
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import breccia._formats as breccia_formats
import numpy
import torch
from gguf import GGMLQuantizationType, quants
from torchao.prototype.mx_formats.mx_tensor import MXTensor

TABLE = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
values = numpy.array(TABLE + TABLE[::-1] + [-v for v in TABLE] + TABLE, dtype=numpy.float32)

mx = MXTensor.to_mx(torch.from_numpy(values)[None], torch.float4_e2m1fn_x2, 32)
in_gguf = quants.quantize(values[None], GGMLQuantizationType.MXFP4)[0]
packed = {
    "torchao": mx.qdata.view(torch.uint8)[0].numpy(),
    "breccia": breccia_formats.pack_nibbles(breccia_formats.encode_e2m1(values)),
    "gguf": in_gguf[1:],
}


def read_low_first(packed):
    codes = numpy.stack((packed & 15, packed >> 4), axis=-1).reshape(-1)
    return breccia_formats.decode_e2m1(codes)


print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packed))
scales = int(mx.scale.view(torch.uint8)[0, 0]), int(in_gguf[0])
print(f"scale bytes: torchao {scales[0]}, gguf {scales[1]}")
assert scales == (127, 127)
assert (mx.dequantize(torch.float32)[0].numpy() == values).all()
assert (quants.dequantize(in_gguf[None], GGMLQuantizationType.MXFP4)[0] == values).all()
assert (breccia_formats.decode_e2m1(breccia_formats.unpack_nibbles(packed["breccia"], 32)) == values).all()

right = {}
for name, codes in packed.items():
    read = read_low_first(codes)
    right[name] = int((read == values).sum())
    print(
        f"{name:8} bytes {codes[:4].tolist()}..., read low half first: {right[name]} of 32 in place, "
        f"sum {read.sum()}, largest {abs(read).max()}"
    )
    assert codes.size == 16 and sorted(read.tolist()) == sorted(values.tolist())
assert right["torchao"] == 32 and right["breccia"] < 16 and right["gguf"] < 16
assert len({codes.tobytes() for codes in packed.values()}) == 3
print("as stated: three byte orders of one block, equal in size, scale and statistics")
PY
cd "$work"
venv/bin/python look.py 2>/dev/null || { echo 'changed: see the lines above'; exit 1; }
