#!/usr/bin/env bash
# torch 2.13.0 on a CPU, torch.nn.functional.grouped_mm: the rows of x up to each of `offs` are multiplied by one expert's
# matrix. The last offset may lie below the number of rows, as where a batch of fixed size has rows without an expert; the
# documentation says that what is beyond is ignored, and one would assume zeros there. The result's rows are memory that
# nothing has written: what was freed before, huge numbers, NaN, by chance. The gradient of x has the same in these rows,
# even where the loss leaves them out, while gradients of the matrices are right. With
# torch.use_deterministic_algorithms(True), which fills unwritten memory, all of them are NaN. It matters to whoever pads
# tokens per expert, as expert parallelism does: a norm of gradients or the layer below sees them, and a small test on
# fresh memory finds zeros. Mask the rows of the result, and of the gradient, or give what is left over a last expert.
#
# Seen (Python 3.11, Linux x86-64):
#   torch 2.13.0+cpu, 10 rows of 16, 3 experts, offs = [4, 4, 7], the loss adds up rows 0 to 6
#   bfloat16   rows 0 to 6 and gradients of the matrices off by 0; unwritten 24 of 24 results, 48 of 48 of x's gradients
#   float32    rows 0 to 6 and gradients of the matrices off by 0; unwritten 24 of 24 results, 48 of 48 of x's gradients
#   as stated: rows after the last offset are left unwritten, in the gradient too
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6

cat > "$work/look.py" <<'PY'
import torch
from torch.nn.functional import grouped_mm

ROWS, WIDTH, OUT, LAST = 10, 16, 8, 7
offsets = torch.tensor([4, 4, LAST], dtype=torch.int32)
torch.use_deterministic_algorithms(True)  # unwritten memory becomes NaN
print(
    f"torch {torch.__version__}, {ROWS} rows of {WIDTH}, 3 experts, offs = {offsets.tolist()}, "
    f"the loss adds up rows 0 to {LAST - 1}"
)
for kind in (torch.bfloat16, torch.float32):
    torch.manual_seed(0)
    x = torch.randn(ROWS, WIDTH).to(kind).requires_grad_()
    matrices = torch.randn(3, WIDTH, OUT).to(kind).requires_grad_()
    result = grouped_mm(x, matrices, offs=offsets)
    result[:LAST].sum().backward()
    plain = torch.cat([x[:4] @ matrices[0], x[4:LAST] @ matrices[2]])
    _, expected = torch.autograd.grad(plain.sum(), (x, matrices))
    off = max((result[:LAST] - plain).abs().max().item(), (matrices.grad - expected).abs().max().item())
    left, gradient = result[LAST:].isnan(), x.grad[LAST:].isnan()
    print(
        f"{str(kind).removeprefix('torch.'):<11}rows 0 to {LAST - 1} and gradients of the matrices off by {off:g}; "
        f"unwritten {left.sum()} of {left.numel()} results, {gradient.sum()} of {gradient.numel()} of x's gradients"
    )
    assert off < 0.1 and left.all() and gradient.all() and not x.grad[:LAST].isnan().any()
print("as stated: rows after the last offset are left unwritten, in the gradient too")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
