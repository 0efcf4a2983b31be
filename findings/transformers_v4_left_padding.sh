#!/usr/bin/env bash
# transformers 5.24.0, DeepseekV4ForCausalLM. Prompts of unequal length are padded on the left for
# generate(), and one would assume that attention_mask hides the pads, as it does for other
# decoders. In V4 the mask reaches the sliding window only: the compressors pool every four (or 128)
# positions counted from the first column, pads included, so one pad moves the borders of all
# compressed entries and its own state goes into the first of them. Logits are off by tenths of
# their RMS, with positions taken from the mask (as generate does); even a pad of four, which keeps
# the borders, is not hidden. Padding on the right is exact, and so is a model without compressed
# layers. It matters because a batch then answers otherwise than each prompt alone, by the length of
# its neighbours, and evaluation scores depend on the batch. Run prompts one at a time, or in groups
# of equal length.
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0, torch 2.13.0+cpu
#   RMS error of the logits against the prompt alone, with positions from the mask
#   sliding layers only left   1, 2, 4 pads: 0.000, 0.000, 0.000
#   sliding layers only right  1, 2, 4 pads: 0.000, 0.000, 0.000
#   with compressors    left   1, 2, 4 pads: 0.269, 0.337, 0.380
#   with compressors    right  1, 2, 4 pads: 0.000, 0.000, 0.000
#   as stated: left padding changes the logits of a V4 model
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 \
    tokenizers==0.23.3 huggingface_hub==2.4.0 safetensors==0.8.0

cat > "$work/look.py" <<'PY'
import warnings

import torch
import transformers
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

warnings.simplefilter("ignore")


def tiny(**settings):
    return DeepseekV4Config(
        **{
            **dict(vocab_size=64, hidden_size=32, moe_intermediate_size=16, num_hidden_layers=4),
            **dict(num_attention_heads=4, head_dim=16, qk_rope_head_dim=8, q_lora_rank=16, o_groups=2),
            **dict(o_lora_rank=8, n_routed_experts=8, num_experts_per_tok=8, sliding_window=8),
            **dict(index_n_heads=2, index_head_dim=8, index_topk=64, max_position_embeddings=256),
            **dict(compress_ratios=[0, 4, 128, 4], num_hash_layers=0, hc_mult=2, initializer_range=0.2),
            **settings,
        }
    )


def look(ratios, pads, side):
    torch.manual_seed(0)
    model = DeepseekV4ForCausalLM(tiny(compress_ratios=ratios)).eval()
    ids = torch.randint(1, 64, (1, 40))
    alone = model(ids).logits
    fill, off = torch.zeros(1, pads, dtype=torch.long), torch.zeros(1, pads, dtype=torch.long)
    parts, marks = [fill, ids], [off, torch.ones_like(ids)]
    if side == "right":
        parts, marks = parts[::-1], marks[::-1]
    mask = torch.cat(marks, 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(torch.cat(parts, 1), attention_mask=mask, position_ids=positions).logits[mask.bool()]
    return ((logits - alone[0]).pow(2).mean() / alone.pow(2).mean()).sqrt().item()


torch.set_grad_enabled(False)
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
print("RMS error of the logits against the prompt alone, with positions from the mask")
for name, ratios in (("sliding layers only", [0, 0, 0, 0]), ("with compressors", [0, 4, 128, 4])):
    for side in ("left", "right"):
        errors = [look(ratios, pads, side) for pads in (1, 2, 4)]
        print(f"{name:<20}{side:<6} 1, 2, 4 pads: " + ", ".join(f"{error:.3f}" for error in errors))
        wrong = side == "left" and name == "with compressors"
        assert all(error > 0.05 if wrong else error < 1e-4 for error in errors)
print("as stated: left padding changes the logits of a V4 model")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
