#!/usr/bin/env bash
# transformers 5.24.0, DeepseekV4Config. Its rotary settings may be written flat, as official files
# have them ({"rope_type": "yarn", "factor": 4, ...}), or nested by branch, as it writes them itself
# ({"main": {...}, "compress": {...}}). One would assume that the same numbers mean the same rotation.
# They do not: for the flat form the class sets attention_factor to 1.0, as DeepSeek's own code has
# it; for the nested form it leaves the key out, and YaRN's usual factor, 0.1 ln(factor) + 1, then
# multiplies cos and sin of every layer that compresses: 1.139 for factor 4, 1.277 for the released
# 16. Nothing is said. It matters to whoever edits or writes such a config.json by hand: write
# "attention_factor": 1.0 into the nested form.
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0, torch 2.13.0+cpu
#   flat:                         attention_factor 1.0, cos at position 0: 1.000
#   nested, the same numbers:     attention_factor None, cos at position 0: 1.139
#   nested, attention_factor 1.0: attention_factor 1.0, cos at position 0: 1.000
#   as stated: the nested form scales cos and sin unless it names the factor
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet numpy==2.4.6 transformers==5.24.0

cat > "$work/look.py" <<'PY'
import copy

import torch
import transformers
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4RotaryEmbedding

transformers.logging.set_verbosity_error()
yarn = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 4096}
main = {"rope_type": "default", "rope_theta": 10000.0}
base = {"rope_theta": 160000.0}
forms = {
    "flat": yarn,
    "nested, the same numbers": {"main": main, "compress": base | yarn},
    "nested, attention_factor 1.0": {"main": main, "compress": base | yarn | {"attention_factor": 1.0}},
}
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
seen = {}
for name, parameters in forms.items():
    config = DeepseekV4Config(rope_parameters=copy.deepcopy(parameters), max_position_embeddings=16384)
    rotary = DeepseekV4RotaryEmbedding(config)
    cos, _ = rotary(torch.zeros(1, 1, 8), torch.zeros(1, 1, dtype=torch.int64), "compress")
    factor = config.rope_parameters["compress"].get("attention_factor")
    seen[name] = (factor, round(float(cos[0, 0, 0]), 3))
    print(f"{name + ':':<29} attention_factor {factor}, cos at position 0: {seen[name][1]:.3f}")
assert list(seen.values()) == [(1.0, 1.0), (None, 1.139), (1.0, 1.0)], seen
print("as stated: the nested form scales cos and sin unless it names the factor")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
