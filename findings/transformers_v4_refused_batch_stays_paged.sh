#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0. generate_batch serves many prompts with a paged cache. For a DeepSeek-V4 model
# with compressed layers it raises a ValueError, which is fair: it knows no such layers. One would assume that the model is
# then as before, so that a program may fall back to generate(). But the attention stays switched to the paged one, which
# is set back only after a success: the next forward, with or without a cache, gives other logits (off by more than their
# RMS here), and generate() other text, without a warning. model.set_attn_implementation("eager") mends it. It matters to
# whoever tries the fast path first, and to evaluations that catch its error.
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0, torch 2.13.0+cpu
#   sliding layers only: generate_batch: answers
#       attention before 'eager', after 'eager'; the same forward is then off by 0.000 of RMS
#       after set_attn_implementation('eager'): 0.000
#   with compressors: generate_batch: ValueError, Invalid layer type: compressed_sparse_attention
#       attention before 'eager', after 'paged|eager'; the same forward is then off by 1.123 of RMS
#       after set_attn_implementation('eager'): 0.000
#   as stated: a refused generate_batch leaves the model computing something else
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 \
    tokenizers==0.23.3 huggingface_hub==2.4.0 safetensors==0.8.0 accelerate==1.15.0

cat > "$work/look.py" <<'PY'
import warnings

import torch
import transformers
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM, GenerationConfig

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
SETTINGS = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=-1)


def tiny(ratios):
    return DeepseekV4Config(
        **dict(vocab_size=64, hidden_size=32, moe_intermediate_size=16, num_hidden_layers=4),
        **dict(num_attention_heads=4, head_dim=16, qk_rope_head_dim=8, q_lora_rank=16, o_groups=2),
        **dict(o_lora_rank=8, n_routed_experts=8, num_experts_per_tok=8, sliding_window=8),
        **dict(index_n_heads=2, index_head_dim=8, index_topk=64, max_position_embeddings=256),
        **dict(compress_ratios=ratios, num_hash_layers=0, hc_mult=2, initializer_range=0.2),
    )


def off(logits, expected):
    return ((logits - expected).pow(2).mean() / expected.pow(2).mean()).sqrt().item()


torch.set_grad_enabled(False)
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
for name, ratios in (("sliding layers only", [0, 0, 0, 0]), ("with compressors", [0, 4, 128, 4])):
    torch.manual_seed(0)
    model = DeepseekV4ForCausalLM(tiny(ratios)).eval()
    ids = torch.randint(1, 64, (1, 40))
    before, first = model(ids, use_cache=False).logits, model.config._attn_implementation
    try:
        model.generate_batch([ids[0].tolist()], generation_config=SETTINGS)
        said = "answers"
    except ValueError as error:
        said = f"ValueError, {error}"
    after = model.config._attn_implementation
    error = off(model(ids, use_cache=False).logits, before)
    print(f"{name}: generate_batch: {said}")
    print(f"    attention before {first!r}, after {after!r}; the same forward is then off by {error:.3f} of RMS")
    seen = first, after, said == "answers", error > 0.1
    model.set_attn_implementation("eager")
    back = off(model(ids, use_cache=False).logits, before)
    print(f"    after set_attn_implementation('eager'): {back:.3f}")
    assert back < 1e-6
    assert seen == (("eager", "paged|eager", False, True) if any(ratios) else ("eager", "eager", True, False))
print("as stated: a refused generate_batch leaves the model computing something else")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
