#!/usr/bin/env bash
# peft 0.21.2 with torch 2.13.0, on a Linear whose frozen weight is float8_e4m3fn and whose forward
# decodes it (the way an FP8 checkpoint is fine-tuned). peft makes the adapters float32, so one
# would assume that they start as on a bfloat16 weight. They are first cast to the weight's own
# dtype and then to float32: the random start of A lands on the float8 grid, and since it is small
# (at most 1/sqrt(width)) that is float8's subnormal range: with width 4096 A has 17 distinct
# numbers, with 7168 only 13, 6 to 8 % of them zero, where a bfloat16 weight gives over 2000.
# Training runs; merge_and_unload raises at the end ("Promotion for Float8 Types is not supported").
# It matters because the adapter looks like float32 and starts on a coarse grid, and because the
# merge fails only after the training. Initialise A again after get_peft_model, and decode the
# weight before merging.
#
# Seen (Python 3.11, Linux x86-64):
#   peft 0.21.2, torch 2.13.0+cpu
#   width 4096, torch.bfloat16: A is torch.float32, 2141 distinct numbers, 0.0% zero, merge ok
#   width 4096, torch.float8_e4m3fn: A is torch.float32, 17 distinct numbers, 6.2% zero, merge RuntimeError
#   width 7168, torch.bfloat16: A is torch.float32, 2279 distinct numbers, 0.0% zero, merge ok
#   width 7168, torch.float8_e4m3fn: A is torch.float32, 13 distinct numbers, 8.2% zero, merge RuntimeError
#   as stated: adapters start on the float8 grid, and merging raises
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 \
    tokenizers==0.23.3 huggingface_hub==2.4.0 safetensors==0.8.0 peft==0.21.2 accelerate==1.15.0

cat > "$work/look.py" <<'PY'
import warnings

import peft
import torch
from peft import LoraConfig, get_peft_model

warnings.simplefilter("ignore")


class DecodingLinear(torch.nn.Linear):
    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype))


def look(width, dtype):
    torch.manual_seed(0)
    layer = DecodingLinear(width, 64, bias=False)
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
    model = get_peft_model(torch.nn.Sequential(layer), LoraConfig(r=16, target_modules=["0"]))
    start = model.base_model.model[0].lora_A.default.weight.detach()
    model(torch.randn(2, width)).sum().backward()
    try:
        model.merge_and_unload()
        merge = "ok"
    except RuntimeError as error:
        merge = type(error).__name__
    numbers, zeros = start.unique().numel(), (start == 0).float().mean().item()
    print(f"width {width}, {dtype}: A is {start.dtype}, {numbers} distinct numbers, {zeros:.1%} zero, merge {merge}")
    assert start.dtype == torch.float32
    return numbers, merge


print(f"peft {peft.__version__}, torch {torch.__version__}")
for width, most in ((4096, 17), (7168, 13)):
    numbers, merge = look(width, torch.bfloat16)
    assert numbers > 1000 and merge == "ok"
    numbers, merge = look(width, torch.float8_e4m3fn)
    assert numbers == most and merge == "RuntimeError"
print("as stated: adapters start on the float8 grid, and merging raises")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
