"""A pass that goes over a mark leaves the tip of that place: the one of a sequence that ended its pass there."""

from __future__ import annotations

import pytest
import torch

from tests.cache.conversations import live_rows, mixes, model_of
from tests.cache.spaces import MemorySpace
from tests.engine.test_prefixes import request_of
from wavefold.cache import Pool, Sequence
from wavefold.engine.prefixes import Keeping
from wavefold.engine.rows import answer_of
from wavefold.engine.runner import Runner
from wavefold.model import Transformer
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="no CPU kernels, which alone are batch-invariant")
TOKENS = torch.randint(0, 40, (900,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models() -> dict[str, Transformer]:
    return {name: model_of(name) for name in ("released", "exact bfloat16", "exact float32")}


def read(model: Transformer, pool: Pool, ends: list[int], mark: int = 0) -> Sequence:
    """A sequence whose passes end at `ends`, with a mark."""
    sequence = pool.open()
    for first, end in zip([0, *ends], ends, strict=False):
        sequence.mark, sequence.marked = mark, None
        model.extend(TOKENS[first:end], [sequence], [end - first])
    return sequence


@pytest.mark.parametrize("name", ["released", "exact bfloat16", "exact float32"])
@pytest.mark.parametrize(
    ("ends", "mark"),
    [([300], 128), ([300], 256), ([257], 256), ([384], 256), ([100, 300], 128), ([255, 420], 256), ([126, 130], 128),
     ([127, 129], 128), ([600], 128), ([130, 600], 512)],
)  # fmt: skip
def test_a_tip_amid_a_pass(models: dict[str, Transformer], name: str, ends: list[int], mark: int) -> None:
    """To the bit where the arithmetic does not depend on the batch. Passes of up to 4 tokens write in place."""
    model = models[name]
    pool = model.new_pool(2048, poison=True, draft_tokens=4)
    tip = read(model, pool, ends, mark).marked
    assert tip is not None and tip.num_tokens == mark and tip.slack == 16
    through = read(model, pool, ends)
    opened = pool.open_at(through.table[: mark // 128], tip)
    cold = read(model, model.new_pool(1024, poison=True, draft_tokens=4), [mark])
    for ours, theirs in zip(live_rows(opened, mark), live_rows(cold, mark), strict=True):
        assert name == "exact float32" or torch.equal(ours, theirs)
        assert ours.shape == theirs.shape
    more = TOKENS[mark : mark + 50]
    hidden = [model.extend(more, [sequence], [50]) for sequence in (opened, cold)]
    torch.testing.assert_close(*hidden, rtol=0, atol=1e-4 if name == "exact float32" else 0)
    opened.rewind(16)
    assert opened.num_tokens == mark + 34
    pool.check_integrity()


@pytest.mark.parametrize("ends", [[256], [256, 300], [100, 255]])
def test_no_pass_goes_over_it(models: dict[str, Transformer], ends: list[int]) -> None:
    """A pass that ends at a mark leaves it to `tip`."""
    model = models["released"]
    assert read(model, model.new_pool(1024), ends, 256).marked is None


def test_a_pass_that_fails_leaves_no_tip(models: dict[str, Transformer], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["released"]
    sequence = read(model, model.new_pool(1024), [100])
    sequence.mark = 128
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(model.experts, "end_pass", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        model.extend(TOKENS[100:200], [sequence], [100])
    assert sequence.marked is None and sequence.num_tokens == 100


@pytest.mark.parametrize("most", [1, 3])
def test_a_state_on_disk_costs_no_pass(models: dict[str, Transformer], most: int) -> None:
    """Also of an answer of one token, which ends with the pass that reads its prompt."""
    model = models["released"]

    def runner(space: MemorySpace | None) -> Runner:
        return Runner(model, 30, 4, 1024, keeping=Keeping(50, 2048, lambda layout: (bytes(32), space)))

    space, text, steps = MemorySpace(), TOKENS[:390].tolist(), []
    for store in (None, space):
        cold = runner(store)
        cold.add(request_of(model, 0, text, most))
        while not cold.idle:
            cold.step()
        steps.append(cold.num_steps)
    assert steps[0] == steps[1] and len(space.states) == 1 and len(space.blocks) == 3
    again, request = runner(space), request_of(model, 1, [*text, 1, 2], 20)
    again.add(request)
    while not again.idle:
        again.step()
    assert answer_of(request).usage.disk_tokens == 384
    assert list(answer_of(request).tokens) == mixes.alone(model, request)
