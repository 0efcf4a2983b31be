#!/usr/bin/env bash
# transformers 5.24.0, DeepseekV4ForCausalLM. One would assume that the router follows its settings
# in config.json, and that aux_loss (output_router_logits=True) measures how evenly the chosen
# experts are loaded. norm_topk_prob, n_shared_experts, router_jitter_noise and attention_bias are
# read, kept and saved, and change nothing: no tensor is added, none has another shape, and the
# logits are equal bit for bit. aux_loss takes softmax and top-k of the raw gate logits, while the
# model chooses by sqrt(softplus) plus e_score_correction_bias: with a bias that sends every token
# to experts 0 and 1 the loss stays exactly the same as with an even load; hash layers are not in
# it. It matters to ablations (the setting was never applied) and to training runs that watch or add
# aux_loss: it neither sees nor corrects an imbalance that comes from the bias. Count the real
# choices.
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0, torch 2.13.0+cpu
#   norm_topk_prob, n_shared_experts, router_jitter_noise, attention_bias: kept in the config True, logits equal True
#   tensors of both models have the same names and shapes: True
#   bias 0 on experts 0 and 1: experts chosen [0, 1, 2, 3, 4, 5, 6, 7], aux_loss 2.596617
#   bias 100 on experts 0 and 1: experts chosen [0, 1], aux_loss 2.596617
#   gates in aux_loss: 1 of 4 layers
#   as stated: these settings do nothing, and aux_loss does not see the bias
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


def build(**settings):
    torch.manual_seed(0)
    return DeepseekV4ForCausalLM(tiny(num_experts_per_tok=2, **settings))


torch.set_grad_enabled(False)
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
ids = torch.randint(0, 64, (1, 64), generator=torch.Generator().manual_seed(0))
plain = build().train()(ids).logits
changes = dict(norm_topk_prob=False, n_shared_experts=3, router_jitter_noise=0.5, attention_bias=True)
changed = build(**changes)
same = torch.equal(changed.train()(ids).logits, plain)
kept = all(getattr(changed.config, key) == value for key, value in changes.items())
print(f"{', '.join(changes)}: kept in the config {kept}, logits equal {same}")
assert kept and same
shapes = [{name: t.shape for name, t in m.state_dict().items()} for m in (changed, build())]
print("tensors of both models have the same names and shapes:", shapes[0] == shapes[1])
assert shapes[0] == shapes[1]

model = build(num_hash_layers=3).eval()  # one learned gate, in the last layer
gate = model.model.layers[3].mlp.gate
chosen, losses, gates = [], [], []
gate.register_forward_hook(lambda module, inputs, output: chosen.append(output[2]))
for bias in (0.0, 100.0):
    gate.e_score_correction_bias[:2] = bias
    output = model(ids, output_router_logits=True)
    losses.append(output.aux_loss.item())
    gates.append(len(output.router_logits))
    print(f"bias {bias:g} on experts 0 and 1: experts chosen {chosen[-1].unique().tolist()}, aux_loss {losses[-1]:.6f}")
print(f"gates in aux_loss: {gates[0]} of 4 layers")
assert chosen[0].unique().numel() > 4 and chosen[1].unique().tolist() == [0, 1]
assert losses[0] == losses[1] and gates == [1, 1]
print("as stated: these settings do nothing, and aux_loss does not see the bias")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
