#!/usr/bin/env bash
# transformers 5.24.0, DeepseekV4ForCausalLM built from a config, as one does to train a small model
# from scratch. The first layers choose experts by a table from token to experts (tid2eid). One
# would assume that a new model gets a table which spreads the tokens, as every other weight gets
# its random start. The table is all zeros: every token of every hash layer is sent to expert 0, and
# to the same expert for each of its top-k places, so the gate's weights add up to a constant and
# only that expert ever gets a gradient. The loss falls all the same and nothing warns. The table is
# a buffer: training never changes it, and save_pretrained writes it. It matters to ablations and to
# tiny random models made for tests: three of the layers are dense there. Fill tid2eid with distinct
# experts for each token before the first step.
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0, torch 2.13.0+cpu
#   layer 0: table of [0], experts with a gradient [0]
#   layer 1: table of [0], experts with a gradient [0]
#   layer 2: table of [0], experts with a gradient [0]
#   layer 3: learned gate, experts with a gradient [0, 1, 2, 3, 4, 5, 6, 7]
#   as stated: hash layers of a new model use expert 0 alone
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


print(f"transformers {transformers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
model = DeepseekV4ForCausalLM(tiny(num_hash_layers=3, num_experts_per_tok=2))
ids = torch.randint(0, 64, (2, 40))
model(ids, labels=ids).loss.backward()
used = []
for layer in model.model.layers:
    table = getattr(layer.mlp.gate, "tid2eid", None)
    kind = "learned gate" if table is None else f"table of {table.unique().tolist()}"
    gradient = layer.mlp.experts.down_proj.grad.abs().sum((1, 2))
    used.append(gradient.nonzero().flatten().tolist())
    print(f"layer {len(used) - 1}: {kind}, experts with a gradient {used[-1]}")
assert used[:3] == [[0]] * 3 and len(used[3]) > 4
print("as stated: hash layers of a new model use expert 0 alone")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
