#!/usr/bin/env bash
# transformers 5.24.0, DeepseekV4ForCausalLM. A checkpoint under the official tensor names
# (embed.weight, layers.0.attn.wq_a.weight, ffn.experts.0.w1) loads without missing or unexpected
# keys. One would assume that save_pretrained then writes either those names again or the names of
# the model's own state_dict. It writes a third set: inside a layer the official words, in front of
# them `model.`, and transformers' words at the top (model.embed_tokens.weight,
# model.layers.0.attn.wq_a.weight, model.hc_head.hc_fn). Of 70 tensors here, one has its official
# name and five have the name that state_dict() gives. transformers reads this back exactly; a tool
# that knows the official layout, or one that expects state_dict() names, finds nothing. It matters
# after fine-tuning or merging in transformers: rename the saved folder before another engine,
# converter or trainer gets it.
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0, torch 2.13.0+cpu
#   official names load: 0 missing, 0 unexpected, logits equal: True
#   saved again: 70 tensors, 1 with an official name, 5 with a state_dict name
#     official layers.1.attn.wq_a.weight
#     module   model.layers.1.self_attn.q_a_proj.weight
#     saved    model.layers.1.attn.wq_a.weight
#   as stated: save_pretrained writes neither the official nor the module names
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 \
    tokenizers==0.23.3 huggingface_hub==2.4.0 safetensors==0.8.0

cat > "$work/look.py" <<'PY'
import re
import warnings

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

warnings.simplefilter("ignore")
transformers.utils.logging.disable_progress_bar()


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


def official(name):
    name = re.sub(r"^model\.", "", name).replace("embed_tokens.", "embed.")
    return name.replace("hc_head.hc_", "hc_head_")


print(f"transformers {transformers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
ids = torch.arange(20).view(1, 20)
first = DeepseekV4ForCausalLM(tiny(num_hidden_layers=2, compress_ratios=[0, 4], n_routed_experts=2, num_experts_per_tok=2))
first.save_pretrained("first")
tensors = {official(name): tensor for name, tensor in load_file("first/model.safetensors").items()}
first.config.save_pretrained("official")
save_file(tensors, "official/model.safetensors", {"format": "pt"})

model, report = DeepseekV4ForCausalLM.from_pretrained("official", output_loading_info=True)
missing, unexpected = len(report["missing_keys"]), len(report["unexpected_keys"])
with torch.no_grad():
    equal = torch.equal(model.eval()(ids).logits, first.eval()(ids).logits)
print(f"official names load: {missing} missing, {unexpected} unexpected, logits equal: {equal}")
assert missing == unexpected == 0 and equal

model.save_pretrained("again")
saved = load_file("again/model.safetensors")
as_official = sum(name in tensors for name in saved)
as_module = sum(name in model.state_dict() for name in saved)
print(f"saved again: {len(saved)} tensors, {as_official} with an official name, {as_module} with a state_dict name")
example = {
    "official": "layers.1.attn.wq_a.weight",
    "module": "model.layers.1.self_attn.q_a_proj.weight",
    "saved": "model.layers.1.attn.wq_a.weight",
}
for kind, name in example.items():
    print(f"  {kind:<8} {name}")
assert example["official"] in tensors and example["module"] in model.state_dict() and example["saved"] in saved
assert len(saved) == len(tensors) and (as_official, as_module) == (1, 5)
print("as stated: save_pretrained writes neither the official nor the module names")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
