#!/usr/bin/env bash
# torch 2.13.0. Scales of FP8 and FP4 weights are bytes: some files call them float8_e8m0fnu
# (DeepSeek-V4), some uint8, and a module declares one of the two. One would assume that a strict
# load_state_dict between them keeps the bytes or raises, since one is an integer and a different
# format. It says "All keys matched successfully" and converts by value: 2^-7 (byte 120) becomes byte
# 0 in a uint8 buffer, and in an e8m0 buffer byte 120 becomes the number 120, rounded to 2^7, as does
# every byte from 96 to 191: all usual scales turn into one and the same number. No key, shape or size
# is wrong, and the model computes nonsense. It matters to whoever moves checkpoints between code that
# uses the two names of the same byte. Give the state dict as views (tensor.view(torch.uint8)) in the
# dtype of the module. Wavefold takes the tensors of a file as they are stored, without copying them
# into parameters of another dtype.
#
# Seen (Python 3.11, Linux x86-64):
#   torch 2.13.0+cpu
#   bytes saved:                [107, 120, 127, 130]
#   e8m0 into e8m0:             [107, 120, 127, 130]
#   e8m0 into uint8:            [0, 0, 1, 8]
#   uint8 into e8m0:            [134, 134, 134, 134]
#   e8m0 as a view into uint8:  [107, 120, 127, 130]
#   as stated: a strict load converts scales by value, without a word
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6

cat > "$work/look.py" <<'PY'
import torch


class Scaled(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("scale", torch.full((4,), 127, dtype=torch.uint8).view(dtype))


def load(dtype, scale):
    module = Scaled(dtype)
    result = module.load_state_dict({"scale": scale}, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    return module.scale.view(torch.uint8).tolist()


print(f"torch {torch.__version__}")
saved = torch.tensor([2**-20, 2**-7, 1.0, 8.0]).to(torch.float8_e8m0fnu)
stored = saved.view(torch.uint8)
same = load(torch.float8_e8m0fnu, saved)
to_uint8 = load(torch.uint8, saved)
to_e8m0 = load(torch.float8_e8m0fnu, stored)
usual = torch.arange(96, 192).to(torch.uint8).to(torch.float8_e8m0fnu)
views = load(torch.uint8, saved.view(torch.uint8))
print("bytes saved:               ", stored.tolist())
print("e8m0 into e8m0:            ", same)
print("e8m0 into uint8:           ", to_uint8)
print("uint8 into e8m0:           ", to_e8m0)
print("e8m0 as a view into uint8: ", views)
assert stored.tolist() == same == views == [107, 120, 127, 130]
assert to_uint8 == [0, 0, 1, 8]
assert to_e8m0 == [134, 134, 134, 134]
assert usual.float().unique().tolist() == [128.0]
print("as stated: a strict load converts scales by value, without a word")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
