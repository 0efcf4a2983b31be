#!/usr/bin/env bash
# transformers 5.23.0 and 5.24.0, DeepseekV4Config. One would assume that a config.json which is
# read and saved again still has the keys of the official layout, and that editing a key in it has
# the effect that the same edit has in the official file. The saved file has lost compress_ratios,
# num_hash_layers, rope_scaling and torch_dtype (layer_types, mlp_layer_types, rope_parameters and
# dtype stand instead), the MTP layer's own entry of compress_ratios (one more than there are
# layers) is gone for good, and quantization_config has gained expert_dtype. rope_theta and
# compress_rope_theta are still written at the top, but from then on only rope_parameters is obeyed:
# changing them in the saved file changes nothing in the rotations, while config.rope_theta shows
# the edited number. rope_scaling null, or none at all, switches YaRN off for the compressed layers
# as well. It matters to every tool that reads the official keys (they are not there, and a tool
# with defaults for them builds another model), and to whoever changes the base for longer contexts
# in a saved folder.
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0
#   vanished: compress_ratios, num_hash_layers, rope_scaling, torch_dtype
#   layer kinds: compress_ratios had 7 entries, layer_types has 6
#   quantization_config gained: expert_dtype
#   rope_theta 500000 in the official file: main layers use 500000
#   rope_theta 500000 in the saved file: main layers use 10000, config.rope_theta says 500000
#   rope of compressed layers: as given yarn, null default, absent default
#   as stated: official keys vanish and the saved rope_theta is not obeyed
#   transformers 5.23.0
#   vanished: compress_ratios, num_hash_layers, rope_scaling, torch_dtype
#   layer kinds: compress_ratios had 7 entries, layer_types has 6
#   quantization_config gained: expert_dtype
#   rope_theta 500000 in the official file: main layers use 500000
#   rope_theta 500000 in the saved file: main layers use 10000, config.rope_theta says 500000
#   rope of compressed layers: as given yarn, null default, absent default
#   as stated: official keys vanish and the saved rope_theta is not obeyed
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3 \
    huggingface_hub==2.4.0 safetensors==0.8.0 numpy==2.4.6

cat > "$work/look.py" <<'PY'
import json
from pathlib import Path

import transformers
from transformers import AutoConfig

official = {
    **dict(model_type="deepseek_v4", num_hidden_layers=6, num_nextn_predict_layers=1, num_hash_layers=3),
    **dict(compress_ratios=[0, 0, 4, 128, 4, 128, 0], rope_theta=10000, compress_rope_theta=160000),
    **dict(head_dim=512, qk_rope_head_dim=64, expert_dtype="fp4", torch_dtype="bfloat16"),
    "rope_scaling": {
        **dict(type="yarn", factor=16, beta_fast=32, beta_slow=1, original_max_position_embeddings=65536)
    },
    "quantization_config": dict(quant_method="fp8", fmt="e4m3", scale_fmt="ue8m0", weight_block_size=[128, 128]),
}


def read(content):
    Path("given").mkdir(exist_ok=True)
    Path("given/config.json").write_text(json.dumps(content))
    return AutoConfig.from_pretrained("given")


print(f"transformers {transformers.__version__}")
read(official).save_pretrained("saved")
saved = json.loads(Path("saved/config.json").read_text())
vanished = sorted(set(official) - set(saved))
print("vanished:", ", ".join(vanished))
assert vanished == ["compress_ratios", "num_hash_layers", "rope_scaling", "torch_dtype"]
kinds = len(official["compress_ratios"]), len(saved["layer_types"])
print(f"layer kinds: compress_ratios had {kinds[0]} entries, layer_types has {kinds[1]}")
gained = sorted(set(saved["quantization_config"]) - set(official["quantization_config"]))
print("quantization_config gained:", ", ".join(gained))
assert kinds == (7, 6) and gained == ["expert_dtype"]

base = 500000
given = read(official | {"rope_theta": base}).rope_parameters["main"]["rope_theta"]
print(f"rope_theta {base} in the official file: main layers use {given}")
edited = read(saved | {"rope_theta": base})
used = edited.rope_parameters["main"]["rope_theta"]
said = edited.rope_theta
print(f"rope_theta {base} in the saved file: main layers use {used}, config.rope_theta says {said}")
assert (given, used, said) == (base, 10000, base)

absent = {key: value for key, value in official.items() if key != "rope_scaling"}
forms = {"as given": official, "null": official | {"rope_scaling": None}, "absent": absent}
ropes = {name: read(form).rope_parameters["compress"]["rope_type"] for name, form in forms.items()}
print("rope of compressed layers:", ", ".join(f"{name} {rope}" for name, rope in ropes.items()))
assert ropes == {"as given": "yarn", "null": "default", "absent": "default"}
print("as stated: official keys vanish and the saved rope_theta is not obeyed")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
"$work/venv/bin/pip" install --quiet --no-deps transformers==5.23.0
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
