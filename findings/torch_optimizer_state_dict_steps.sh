#!/usr/bin/env bash
# torch 2.13.0, get_optimizer_state_dict and get_state_dict of torch.distributed.checkpoint.state_dict, the functions that
# collect what a checkpoint saves. One would assume that they only read. Of an optimizer that has not stepped yet they
# call step(), with gradients of zero and a learning rate of zero, so that there is a state to return. The weights stay as
# they are, the rest does not: step counters stand at 1, momentum buffers exist, and hooks of step() have run. So the
# first real update of AdamW corrects its bias as if it were the second, and is 0.744 of what it would be (Adamax: 0.526;
# SGD with dampening 0.5: one half), and a counter or moving average in a hook is one ahead. A run that writes a
# checkpoint before its first step, as many do to test that saving works, is another run than one that does not, and so is
# each that is loaded from that checkpoint, which says step 1. It matters to whoever compares runs bit for bit, or one
# framework with another: nothing is printed, and every weight differs from the first update on. optimizer.state_dict()
# only reads. Save after the first step, or clear optimizer.state after a call before it.
#
# Seen (Python 3.11, Linux x86-64):
#   torch 2.13.0+cpu
#   AdamW                first update 0.1000, after a look 0.0744, state before the first step: step 1
#   Adamax               first update 0.1000, after a look 0.0526, state before the first step: step 1
#   SGD, dampening 0.5   first update 0.2000, after a look 0.1000, state before the first step: momentum_buffer
#   the look: weights changed False, hooks of step() ran 1 time(s), optimizer.state_dict() alone: 0
#   AdamW after 200 steps on the same batches: weights 0.0008 apart in RMS, plain runs equal bit for bit True
#   as stated: a look before the first step takes one
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6

cat > "$work/look.py" <<'PY'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "SGD, dampening 0.5": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
}


def first_update(make, looks):
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1.0)
    optimizer = make(layer.parameters())
    seen = get_optimizer_state_dict(layer, optimizer)["state"]["weight"] if looks else None
    if looks:
        seen = f"step {int(seen['step'])}" if "step" in seen else ", ".join(seen)
    before = layer.weight.item()
    layer.weight.grad = torch.full_like(layer.weight, 2.0)
    optimizer.step()
    return before - layer.weight.item(), seen


print(f"torch {torch.__version__}")
shares = {}
for name, make in OPTIMIZERS.items():
    (plain, _), (looked, seen) = first_update(make, False), first_update(make, True)
    shares[name] = looked / plain
    print(f"{name:20} first update {plain:.4f}, after a look {looked:.4f}, state before the first step: {seen}")
assert abs(shares["AdamW"] - 0.744) < 1e-3 and abs(shares["Adamax"] - 0.526) < 1e-3
assert abs(shares["SGD, dampening 0.5"] - 0.5) < 1e-3

layer = torch.nn.Linear(4, 4)
optimizer, ran = torch.optim.AdamW(layer.parameters(), lr=0.1), []
optimizer.register_step_post_hook(lambda *_: ran.append(1))
weight = layer.weight.detach().clone()
optimizer.state_dict()
alone = len(ran)
get_optimizer_state_dict(layer, optimizer)
changed = not torch.equal(weight, layer.weight)
print(f"the look: weights changed {changed}, hooks of step() ran {len(ran)} time(s), "
      f"optimizer.state_dict() alone: {alone}")
assert not changed and len(ran) == 1 and alone == 0


def train(looks):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    if looks:
        get_optimizer_state_dict(model, optimizer)
    draw = torch.Generator().manual_seed(1)
    for _ in range(200):
        x = torch.randn(32, 16, generator=draw)
        optimizer.zero_grad()
        (model(x) - x.square().mean(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


torch.set_num_threads(1)
one, other, looked = train(False), train(False), train(True)
apart = (one - looked).square().mean().sqrt().item()
print(f"AdamW after 200 steps on the same batches: weights {apart:.4f} apart in RMS, plain runs equal bit for bit "
      f"{torch.equal(one, other)}")
assert apart > 1e-4 and torch.equal(one, other)
print("as stated: a look before the first step takes one")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
