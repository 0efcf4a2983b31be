#!/usr/bin/env bash
# transformers 5.24.0, DeepseekV4ForCausalLM. resize_token_embeddings makes room for added tokens and
# sets config.vocab_size. V4's first layers (three in the published models) choose experts by a table
# with a row for each token, gate.tid2eid, and one would assume that it grows too. It keeps its size:
# the resized model answers as before while no new token comes, so adapting code seems to work, and
# the first new token raises IndexError in the router. Saving it succeeds as well, but the folder
# does not load: the configuration asks for a larger table than the file holds. It matters because
# whoever adds a turn marker learns of it in the middle of a run or after it. Append rows to
# model.model.layers[i].mlp.gate.tid2eid for each hash layer yourself (experts of a related token).
#
# Seen (Python 3.11, Linux x86-64):
#   transformers 5.24.0, torch 2.13.0+cpu
#   before: vocabulary 64, table (64, 4); after resize_token_embeddings(70): vocabulary 70, table (64, 4)
#   old tokens: logits as before; a new token: IndexError
#   save_pretrained: written; from_pretrained: RuntimeError
#   with rows appended: a new token runs, and the saved folder loads with the same logits
#   as stated: the table of the hash layers keeps the old vocabulary
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
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def raised(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "nothing raised"


torch.set_grad_enabled(False)
torch.manual_seed(0)
config = DeepseekV4Config(
    **dict(vocab_size=64, hidden_size=32, moe_intermediate_size=16, num_hidden_layers=3),
    **dict(num_attention_heads=4, head_dim=16, qk_rope_head_dim=8, q_lora_rank=16, o_groups=2),
    **dict(o_lora_rank=8, n_routed_experts=8, num_experts_per_tok=4, sliding_window=8),
    **dict(index_n_heads=2, index_head_dim=8, index_topk=64, max_position_embeddings=256),
    **dict(compress_ratios=[0, 4, 4], num_hash_layers=1, hc_mult=2, initializer_range=0.2),
)
model = DeepseekV4ForCausalLM(config).eval()
gate = model.model.layers[0].mlp.gate
gate.tid2eid.copy_(torch.rand(64, 8).argsort(1)[:, :4])
ids, new = torch.randint(1, 64, (1, 24)), torch.tensor([[5, 66, 7]])
before, table = model(ids).logits, tuple(gate.tid2eid.shape)
model.resize_token_embeddings(70)
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
print(
    f"before: vocabulary 64, table {table}; after resize_token_embeddings(70): "
    f"vocabulary {model.config.vocab_size}, table {tuple(gate.tid2eid.shape)}"
)
assert model.config.vocab_size == 70 and gate.tid2eid.shape == (64, 4)
same = torch.allclose(model(ids).logits[..., :64], before, atol=1e-5)
wrong = raised(lambda: model(new))
print(f"old tokens: logits {'as before' if same else 'changed'}; a new token: {wrong}")
assert same and wrong == "IndexError"
saving = raised(lambda: model.save_pretrained("resized"))
loading = raised(lambda: DeepseekV4ForCausalLM.from_pretrained("resized"))
print(f"save_pretrained: {'written' if saving == 'nothing raised' else saving}; from_pretrained: {loading}")
assert saving == "nothing raised" and loading != "nothing raised"
gate.tid2eid = torch.cat([gate.tid2eid, gate.tid2eid[:1].expand(6, -1)]).contiguous()
model.save_pretrained("mended")
again = DeepseekV4ForCausalLM.from_pretrained("mended").eval()
assert torch.allclose(again(new).logits, model(new).logits, atol=1e-5)
print("with rows appended: a new token runs, and the saved folder loads with the same logits")
print("as stated: the table of the hash layers keeps the old vocabulary")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
