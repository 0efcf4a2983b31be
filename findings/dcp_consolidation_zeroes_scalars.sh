#!/usr/bin/env bash
# torch 2.13.0 (torch.distributed.checkpoint) with safetensors 0.8.0.
# HuggingFaceStorageWriter(save_distributed=True, enable_consolidation=True) writes shards and then
# joins them into the files that other tools load. One would assume that the joined file holds what
# the shards hold. A zero-dimensional tensor (a learned temperature, a gate scale, a step count)
# comes out as 0.0 in the joined file, without a word, while its shard has the right value; and a
# state dict with one integer or bool tensor (a table of hash routes, packed FP4 in int8) cannot be
# joined at all: the element size is asked of torch.finfo, a TypeError inside a CheckpointException,
# after the shards were written. It matters because the joined file is the one that is published or
# served, and a scale of zero silently switches off what it scales. Give such parameters one
# dimension, and compare joined files with their shards.
#
# Seen (Python 3.11, Linux x86-64):
#   torch 2.13.0+cpu, safetensors 0.8.0
#   shard:  scale 2.5, vector [1.0, 2.0]
#   joined: scale 0.0, vector [1.0, 2.0]
#   with an int64 table: CheckpointException from TypeError
#   as stated: a scalar is zero in the joined file, an integer tensor stops the joining
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 safetensors==0.8.0

cat > "$work/look.py" <<'PY'
import logging
import warnings
from pathlib import Path

import safetensors
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

warnings.simplefilter("ignore")
logging.disable(logging.ERROR)


def save(folder, tensors):
    writer = dcp.HuggingFaceStorageWriter(folder, save_distributed=True, enable_consolidation=True)
    dcp.save(tensors, storage_writer=writer)


print(f"torch {torch.__version__}, safetensors {safetensors.__version__}")
save("model", {"scale": torch.tensor(2.5), "vector": torch.tensor([1.0, 2.0])})
shard = load_file(next(Path("model/sharded").glob("*.safetensors")))
joined = load_file(next(Path("model").glob("*.safetensors")))
for name, tensors in (("shard: ", shard), ("joined:", joined)):
    print(f"{name} scale {tensors['scale'].tolist()}, vector {tensors['vector'].tolist()}")
assert shard["scale"].item() == 2.5 and joined["scale"].item() == 0.0
assert joined["vector"].tolist() == [1.0, 2.0]

try:
    save("table", {"table": torch.arange(6).view(2, 3), "vector": torch.ones(2)})
    caught = None
except BaseException as error:
    caught = error
assert type(caught).__name__ == "CheckpointException"
cause = caught.failures[0][0]
print(f"with an int64 table: {type(caught).__name__} from {type(cause).__name__}")
assert isinstance(cause, TypeError) and "finfo" in str(cause)
print("as stated: a scalar is zero in the joined file, an integer tensor stops the joining")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
