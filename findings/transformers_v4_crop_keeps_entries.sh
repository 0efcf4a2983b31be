#!/usr/bin/env bash
# transformers 5.24.0, the cache of DeepseekV4ForCausalLM. cache.crop(-n) takes back the last n
# tokens, as speculative decoding and edited prompts need it. The cache of a V4 model says
# is_croppable True, so one would assume that a crop either raises or gives the logits of a fresh
# run. Inside the sliding window it succeeds, get_seq_length() is right, and the logits afterwards
# are off by tenths of their RMS: only the window's keys are cropped, while the compressors' buffers
# and compressed entries keep the tokens that were taken back, so later entries are built from the
# wrong windows. The same model with sliding layers alone is exact. Beyond the window crop raises
# (RuntimeError). It matters because nothing fails: text goes on from a damaged memory. Keep a copy
# of the cache from before the tokens that may be taken back.
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0, torch 2.13.0+cpu
#   sliding layers only: 6 tokens, crop 2, is_croppable True, length 4, RMS error 0.000
#   with compressors:    6 tokens, crop 2, is_croppable True, length 4, RMS error 0.255
#   beyond the window: RuntimeError
#   as stated: crop succeeds and the logits after it are wrong
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


def look(ratios):
    torch.manual_seed(0)
    model = DeepseekV4ForCausalLM(tiny(compress_ratios=ratios)).eval()
    ids = torch.randint(0, 64, (1, 24))
    whole = model(ids).logits
    cache = model(ids[:, :6], use_cache=True).cache
    croppable = cache.is_croppable
    cache.crop(-2)
    length = cache.get_seq_length()
    rest = model(ids[:, length:], cache=cache).logits
    error = ((rest - whole[:, length:]).pow(2).mean() / whole.pow(2).mean()).sqrt().item()
    print(f"6 tokens, crop 2, is_croppable {croppable}, length {length}, RMS error {error:.3f}")
    assert croppable and length == 4
    return model, ids, error


torch.set_grad_enabled(False)
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
print("sliding layers only: ", end="")
*_, sliding = look([0, 0, 0, 0])
print("with compressors:    ", end="")
model, ids, compressed = look([0, 4, 128, 4])
assert sliding < 1e-4 and compressed > 0.05

cache = model(ids, use_cache=True).cache
try:
    cache.crop(-2)
    beyond = "no error"
except RuntimeError as error:
    beyond = type(error).__name__
print("beyond the window:", beyond)
assert beyond == "RuntimeError"
print("as stated: crop succeeds and the logits after it are wrong")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
