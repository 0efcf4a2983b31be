#!/usr/bin/env bash
# accelerate 1.15.0 with torch 2.13.0. One would assume that a tensor of dtype float4_e2m1fn_x2 (two
# FP4 values in a byte, so one byte an element) counts with its real size when accelerate sums up a
# model or plans where its layers go. It counts with zero bytes: dtype_byte_size gives 0,
# compute_module_sizes leaves the tensor out, and infer_auto_device_map puts 2 MiB of experts on a
# device that was given 4 KiB, where the same bytes as int8 go to the next device. It matters
# because the FP4 experts are most of such a model: with device_map="auto" a plan that looks fine
# runs out of memory on the first device. Keep packed FP4 weights as int8 or uint8 until they are
# placed.
#
# Seen (Python 3.11, Linux x86-64):
#   accelerate 1.15.0, torch 2.13.0+cpu
#   torch.int8: 1 byte(s) an element, real 2097152, counted 2097152, placed {'': 'disk'}
#   torch.float4_e2m1fn_x2: 0 byte(s) an element, real 2097152, counted 0, placed {'': 'cpu'}
#   as stated: float4 weights count as 0 bytes and fit any device
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 accelerate==1.15.0 \
    huggingface_hub==2.4.0 safetensors==0.8.0

cat > "$work/look.py" <<'PY'
import accelerate
import torch
from accelerate import infer_auto_device_map
from accelerate.utils import compute_module_sizes
from accelerate.utils.modeling import dtype_byte_size


class Experts(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        packed = torch.zeros(1024, 1024, dtype=torch.uint8).view(dtype)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)


def look(dtype):
    model = torch.nn.Sequential(Experts(dtype), Experts(dtype))
    real = sum(p.untyped_storage().nbytes() for p in model.parameters())
    counted = compute_module_sizes(model)[""]
    limits = {"cpu": 4096, "disk": 2**30}
    placed = dict(infer_auto_device_map(model, max_memory=limits, no_split_module_classes=["Experts"]))
    size = dtype_byte_size(dtype)
    print(f"{dtype}: {size} byte(s) an element, real {real}, counted {counted}, placed {placed}")
    return size, real, counted, placed


print(f"accelerate {accelerate.__version__}, torch {torch.__version__}")
int8, float4 = look(torch.int8), look(torch.float4_e2m1fn_x2)
assert int8 == (1, 2**21, 2**21, {"": "disk"})
assert float4 == (0, 2**21, 0, {"": "cpu"})
print("as stated: float4 weights count as 0 bytes and fit any device")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
