#!/usr/bin/env bash
# torchao 0.18.0 with transformers 5.24.0 and torch 2.13.0. quantize_(model, config) is the documented one line for a
# whole model, and one would assume that a DeepSeek-V4 model becomes about half as large by it. Its filter takes
# nn.Linear, and transformers keeps V4's routed experts as plain three-dimensional parameters: 97 % of the model stay as
# they are, without a warning. What it does reach are compressors and the indexer's weights, which DeepSeek publishes in
# bfloat16, and the grouped output projection, whose forward the new tensors do not know: the first forward raises. A
# filter_fn that leaves out self_attn.compressor and o_a_proj gives a model that runs, hardly smaller than before.
#
# Seen (Python 3.11, Linux x86-64):
#   torchao 0.18.0, transformers 5.24.0, torch 2.13.0+cpu
#   parameters by default: 97.4% of routed experts, 2.4% of nn.Linear
#   Int8WeightOnlyConfig: 0 warnings, 0 tensors of routed experts quantized
#       quantized, though published in bfloat16: compressor.gate_proj, compressor.kv_proj,
#       indexer.gate_proj, indexer.kv_proj, weights_proj
#       the first forward raises NotImplementedError
#   Float8WeightOnlyConfig: 0 warnings, 0 tensors of routed experts quantized
#       quantized, though published in bfloat16: compressor.gate_proj, compressor.kv_proj,
#       indexer.gate_proj, indexer.kv_proj, weights_proj
#       the first forward raises AssertionError
#   as stated: nearly all of the model stays as it is, and what must stay is quantized
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 torchao==0.18.0 \
    tokenizers==0.23.3 huggingface_hub==2.4.0 safetensors==0.8.0

cat > "$work/look.py" <<'PY'
import warnings

import torch
import torchao
import transformers
from torch import nn
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

KEPT = {"compressor.gate_proj", "compressor.kv_proj", "indexer.gate_proj", "indexer.kv_proj", "weights_proj"}
RAISED = {"Int8WeightOnlyConfig": "NotImplementedError", "Float8WeightOnlyConfig": "AssertionError"}


def tiny():
    return DeepseekV4Config(
        **dict(vocab_size=64, hidden_size=32, moe_intermediate_size=16, num_hidden_layers=4),
        **dict(num_attention_heads=4, head_dim=16, qk_rope_head_dim=8, q_lora_rank=16, o_groups=2),
        **dict(o_lora_rank=8, n_routed_experts=64, num_experts_per_tok=2, sliding_window=8),
        **dict(index_n_heads=2, index_head_dim=8, index_topk=64, max_position_embeddings=256),
        **dict(compress_ratios=[0, 4, 128, 4], num_hash_layers=0, hc_mult=2, initializer_range=0.2),
    )


def share(model, chosen):
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return sum(size for name, size in sizes.items() if chosen(name)) / sum(sizes.values())


def is_expert(name):
    return ".mlp.experts." in name


torch.set_grad_enabled(False)
print(f"torchao {torchao.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
with torch.device("meta"):
    default = DeepseekV4ForCausalLM(DeepseekV4Config())
linear = {f"{name}.weight" for name, module in default.named_modules() if isinstance(module, nn.Linear)}
of_linear = share(default, linear.__contains__)
print(f"parameters by default: {share(default, is_expert):.1%} of routed experts, {of_linear:.1%} of nn.Linear")
assert of_linear < 0.03
for config in (Int8WeightOnlyConfig(), Float8WeightOnlyConfig()):
    torch.manual_seed(0)
    model, kind = DeepseekV4ForCausalLM(tiny()).eval(), type(config).__name__
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        quantize_(model, config)
    done = {name for name, tensor in model.named_parameters() if type(tensor.data) is not torch.Tensor}
    reached = sorted(part for part in KEPT if any(part in name for name in done))
    print(f"{kind}: {len(said)} warnings, {sum(map(is_expert, done))} tensors of routed experts quantized")
    print(f"    quantized, though published in bfloat16: {', '.join(reached)}")
    try:
        model(torch.randint(1, 64, (1, 20)))
        raised = "nothing"
    except (NotImplementedError, AssertionError) as error:
        raised = type(error).__name__
    print(f"    the first forward raises {raised}")
    assert not said and done and not any(map(is_expert, done)) and set(reached) == KEPT and raised == RAISED[kind]
print("as stated: nearly all of the model stays as it is, and what must stay is quantized")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
