#!/usr/bin/env bash
# transformers 5.24.0, DeepseekV4ForCausalLM. DataCollatorWithFlattening joins the documents of a
# batch into one row whose position_ids begin at 0 with each document, and models keep the documents
# apart by these positions. One would assume that V4 does too, since it takes the batch without a
# word. Its sliding layers do. Its compressors pool every four (or 128) columns of the row and let a
# query see all entries before it, so a document reads compressed states of the ones before it:
# logits are off by almost half of their RMS, also where a document begins at a border of entries, and
# other words in the first document change the second one's. With use_cache=True, the default of a
# forward pass outside the Trainer, nothing is kept apart, in the sliding layers neither. It matters
# because packed fine-tuning (padding-free) learns to predict each document from its neighbours in
# the batch, and only the model's own quality tells. Pass documents one a row, padded on the right,
# which is exact.
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0, torch 2.13.0+cpu
#   RMS error of the second document's logits, against the document alone
#   sliding layers only  packed, use_cache=False: 0.000   packed, use_cache=True: 0.795
#   with compressors     packed, use_cache=False: 0.462   packed, use_cache=True: 0.658
#   with compressors     change of the second document's logits by other words in the first: 0.417
#   as stated: documents that are packed into one row are read by the ones after them
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
from transformers import DataCollatorWithFlattening, DeepseekV4Config, DeepseekV4ForCausalLM

warnings.simplefilter("ignore")
FIRST, SECOND = 16, 20


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


def packed(model, documents, use_cache):
    batch = DataCollatorWithFlattening()([{"input_ids": d.tolist()} for d in documents])
    assert batch["position_ids"].tolist() == [[*range(FIRST), *range(SECOND)]]
    ids, positions = batch["input_ids"], batch["position_ids"]
    return model(ids, position_ids=positions, use_cache=use_cache).logits[0, FIRST:]


torch.set_grad_enabled(False)
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
print("RMS error of the second document's logits, against the document alone")
for name, ratios in (("sliding layers only", [0, 0, 0, 0]), ("with compressors", [0, 4, 128, 4])):
    torch.manual_seed(0)
    model = DeepseekV4ForCausalLM(tiny(ratios)).eval()
    first, other, second = (torch.randint(1, 64, (size,)) for size in (FIRST, FIRST, SECOND))
    alone = model(second[None]).logits[0]
    error, default = (off(packed(model, (first, second), cache), alone) for cache in (False, True))
    print(f"{name:<21}packed, use_cache=False: {error:.3f}   packed, use_cache=True: {default:.3f}")
    assert default > 0.1
    assert error > 0.1 if any(ratios) else error < 1e-4
    if any(ratios):
        both = [packed(model, (document, second), False) for document in (first, other)]
        change = off(*both)
        print(f"{name:<21}change of the second document's logits by other words in the first: {change:.3f}")
        assert change > 0.1
print("as stated: documents that are packed into one row are read by the ones after them")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
