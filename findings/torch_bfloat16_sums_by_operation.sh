#!/usr/bin/env bash
# torch 2.13.0 on a CPU. Sums of bfloat16 numbers are kept in float32 and rounded once: sum, mean, matrix products and
# index_add_ of rows do so, and one would assume it of any operation that adds. Some keep the running sum in bfloat16,
# whose 256 + 1 is 256: gradients of an embedding (F.embedding, EmbeddingBag, or w[ids]) and of LayerNorm's bias,
# index_add_ of a vector, index_put_ with accumulate, index_reduce_ and segment_reduce with "mean", histc. The same lookup
# as index_select or as a one-hot product has the right gradient, rounded. 10,000 ones make 256, a mean of ones is 0.026,
# and LayerNorm's sum of ones stops at 256 for each thread. Not only ones: for a token that occurs 10,000 times in a
# batch, with gradients of mean 0.1 and deviation 1, the embedding's gradient is 29 % off. It matters to whoever trains in
# pure bfloat16 on a CPU, or takes it as the reference for another device: the most frequent tokens are the most wrong,
# nothing is NaN, and a bfloat16 count of tokens per expert stays at 256. Keep such weights, and what counts or averages,
# in float32.
#
# Seen (Python 3.11, Linux x86-64):
#   torch 2.13.0+cpu, 10,000 ones in bfloat16
#   sum 9984, index_add_ of rows 9984, of a vector 256, index_put_ 256, histc 256
#   mean 1, scatter_reduce mean 1, index_reduce mean 0.0256, segment_reduce mean 0.0256
#   gradient of a row: index_select 9984, one-hot product 9984, F.embedding 256, w[ids] 256, EmbeddingBag 256
#   gradient of LayerNorm's bias: 1 thread 256, 4 threads 1024, in float32 10000
#   gradients of mean 0.1: index_select 0.2 % off, F.embedding 28.8 % off
#   as stated: the operation decides whether a sum in bfloat16 stops at 256
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6

cat > "$work/look.py" <<'PY'
import warnings

import torch
from torch.nn import functional as F

warnings.simplefilter("ignore")  # index_reduce is in beta
N, TYPE = 10_000, torch.bfloat16
ids = torch.zeros(N, dtype=torch.long)
torch.set_num_threads(1)


def ones(*shape):
    return torch.ones(*shape, dtype=TYPE)


def zeros(*shape):
    return torch.zeros(*shape, dtype=TYPE)


def row_gradient(lookup, gradients):
    weight = torch.zeros(4, gradients.shape[1], dtype=gradients.dtype, requires_grad=True)
    lookup(weight).backward(gradients)
    return weight.grad[0]


def show(start, numbers):
    values = {name: f"{value:.3g}" if value < 1 else f"{value:.0f}" for name, value in numbers.items()}
    print(start + ", ".join(f"{name} {value}" for name, value in values.items()))


print(f"torch {torch.__version__}, 10,000 ones in bfloat16")
sums = {
    "sum": ones(N).sum(),
    "index_add_ of rows": zeros(2, 4).index_add_(0, ids, ones(N, 4))[0, 0],
    "of a vector": zeros(2).index_add_(0, ids, ones(N))[0],
    "index_put_": zeros(2, 4).index_put_((ids,), ones(N, 4), accumulate=True)[0, 0],
    "histc": torch.histc(ones(N), 2, 0, 2)[1],
}
show("", sums)
assert [value.item() for value in sums.values()] == [9984, 9984, 256, 256, 256]
means = {
    "mean": ones(N).mean(),
    "scatter_reduce mean": zeros(2).scatter_reduce(0, ids, ones(N), "mean", include_self=False)[0],
    "index_reduce mean": zeros(2, 4).index_reduce(0, ids, ones(N, 4), "mean", include_self=False)[0, 0],
    "segment_reduce mean": torch.segment_reduce(ones(N), "mean", lengths=torch.tensor([N]))[0],
}
show("", means)
assert [round(value.item(), 3) for value in means.values()] == [1, 1, 0.026, 0.026]

lookups = {
    "index_select": lambda w: w.index_select(0, ids),
    "one-hot product": lambda w: F.one_hot(ids, 4).to(w.dtype) @ w,
    "F.embedding": lambda w: F.embedding(ids, w),
    "w[ids]": lambda w: w[ids],
    "EmbeddingBag": lambda w: F.embedding_bag(ids[:, None], w, mode="sum"),
}
gradients = {name: row_gradient(lookup, ones(N, 4))[0] for name, lookup in lookups.items()}
show("gradient of a row: ", gradients)
assert [value.item() for value in gradients.values()] == [9984, 9984, 256, 256, 256]


def bias_gradient(threads, dtype):
    torch.set_num_threads(threads)
    bias = torch.zeros(4, dtype=dtype, requires_grad=True)
    F.layer_norm(torch.arange(4, dtype=dtype).expand(N, 4).contiguous(), (4,), None, bias).sum().backward()
    return bias.grad[0].item()


one, four, exact = bias_gradient(1, TYPE), bias_gradient(4, TYPE), bias_gradient(1, torch.float32)
print(f"gradient of LayerNorm's bias: 1 thread {one:.0f}, 4 threads {four:.0f}, in float32 {exact:.0f}")
assert (one, four, exact) == (256, 1024, 10000)

torch.set_num_threads(1)
drawn = (torch.randn(N, 256, generator=torch.Generator().manual_seed(0)) + 0.1).to(TYPE)
right = drawn.double().sum(0)
off = {}
for name in ("index_select", "F.embedding"):
    found = row_gradient(lookups[name], drawn).double()
    off[name] = ((found - right).square().mean() / right.square().mean()).sqrt().item()
print("gradients of mean 0.1: " + ", ".join(f"{name} {100 * share:.1f} % off" for name, share in off.items()))
assert off["index_select"] < 0.01 and off["F.embedding"] > 0.2
print("as stated: the operation decides whether a sum in bfloat16 stops at 256")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
