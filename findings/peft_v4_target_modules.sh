#!/usr/bin/env bash
# peft 0.21.2 on transformers 5.24.0's DeepseekV4ForCausalLM. One would assume that
# target_modules=["gate_proj", "up_proj", "down_proj"] adapts the expert MLPs and "q_b_proj",
# "kv_proj" the attention, as in other models, and that "all-linear" is a safe choice. The names
# match by their ending, so gate_proj, kv_proj and q_b_proj also adapt the compressors and the
# indexer, while of the MLPs only the shared expert matches: routed experts are plain parameters
# (they need target_parameters). Adapters inside the indexer never get a gradient, since it only
# picks indices, yet they are counted, saved and served. "all-linear" builds, counts its parameters,
# and fails at the first forward: the grouped o_a_proj is a Linear by class whose input has a group
# axis, and LoRA's product has another shape. It matters because the first two mistakes look like a
# successful run: check the list of adapted modules and their gradients after one step.
#
# Seen (Python 3.11, Linux x86-64):
#   peft 0.21.2, transformers 5.24.0, torch 2.13.0+cpu
#   gate_proj up_proj down_proj
#     mlp.shared_experts.down_proj               gradient
#     mlp.shared_experts.gate_proj               gradient
#     mlp.shared_experts.up_proj                 gradient
#     self_attn.compressor.gate_proj             gradient
#     self_attn.compressor.indexer.gate_proj     no gradient
#   q_b_proj kv_proj
#     self_attn.compressor.indexer.kv_proj       no gradient
#     self_attn.compressor.indexer.q_b_proj      no gradient
#     self_attn.compressor.kv_proj               gradient
#     self_attn.kv_proj                          gradient
#     self_attn.q_b_proj                         gradient
#   all-linear: 1412 trainable parameters, forward RuntimeError: The size of tensor a (8) must match the size of tensor b (16) at non-singleton dimension 3
#   as stated: endings match compressors and indexer, experts are missed, all-linear fails
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
import transformers
from peft import LoraConfig, get_peft_model
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

ids = torch.randint(0, 64, (1, 40), generator=torch.Generator().manual_seed(0))


def adapt(targets):
    torch.manual_seed(0)
    model = DeepseekV4ForCausalLM(tiny(num_hidden_layers=1, compress_ratios=[4]))
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets))


def gradients(model):
    """The adapted modules of the layer, and whether each got a gradient."""
    model(ids, labels=ids).loss.backward()
    found = {}
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            found[name.split(".layers.0.")[1].split(".lora_B")[0]] = parameter.grad is not None
    return found


print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
mlp = ["gate_proj", "up_proj", "down_proj"]
attention = ["q_b_proj", "kv_proj"]
seen = {}
for targets in (mlp, attention):
    print(" ".join(targets))
    for name, got in sorted(gradients(adapt(targets)).items()):
        seen[name] = got
        print(f"  {name:<42} {'gradient' if got else 'no gradient'}")
assert seen == {
    "mlp.shared_experts.gate_proj": True,
    "mlp.shared_experts.up_proj": True,
    "mlp.shared_experts.down_proj": True,
    "self_attn.compressor.gate_proj": True,
    "self_attn.compressor.indexer.gate_proj": False,
    "self_attn.q_b_proj": True,
    "self_attn.compressor.indexer.q_b_proj": False,
    "self_attn.kv_proj": True,
    "self_attn.compressor.kv_proj": True,
    "self_attn.compressor.indexer.kv_proj": False,
}

model = adapt("all-linear")
trained = model.get_nb_trainable_parameters()[0]
try:
    model(ids)
    outcome = "no error"
except RuntimeError as error:
    outcome = f"RuntimeError: {error}"
print(f"all-linear: {trained} trainable parameters, forward {outcome}")
assert outcome.startswith("RuntimeError: The size of tensor a")
print("as stated: endings match compressors and indexer, experts are missed, all-linear fails")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
