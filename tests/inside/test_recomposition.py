"""What is recorded is what the pass did: put together again, it gives the pass's own numbers.

CPU kernels    the recorded choice, through the attention kernel: the streams after attention, bit for bit
plain torch    masses times values: attention's output
both           the logits of the row are those of an ordinary step, bit for bit
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.model import test_successor as successor
from tests.model.test_cpu_layers import CONFIG, ODD
from wavefold import ops
from wavefold.checkpoint.random import random_model
from wavefold.inside import Seen, look_at, read
from wavefold.inside.masses import Masses
from wavefold.inside.row import RowWatcher
from wavefold.model import Step, Transformer
from wavefold.model.block import Block
from wavefold.ops import Arithmetic, native
from wavefold.ops.native import hyper_connection
from wavefold.quant import Weight

WIDE = CONFIG.replace(
    num_hidden_layers=2, compress_ratios=(0, 4, 0), hidden_size=2048, num_attention_heads=16, o_groups=4, head_dim=512,
    qk_rope_head_dim=64, q_lora_rank=512, o_lora_rank=512, index_n_heads=32, index_head_dim=128,
)  # fmt: skip
"""Sums as long as a real model's: where another order of them moves bits."""
LENGTHS = (1, 4, 130, 396)
OUTPUT_ERROR = {"exact": 1e-5, "released": 3e-2}
"""RMS of the error over RMS of the output. Released arithmetic rounds shares to bfloat16, and the output to FP8."""
KERNELS_ERROR = 1e-2
"""The same for the kernels: they also round the output to bfloat16."""

LAST_ULPS = 40


class Recomposing(RowWatcher):
    """Puts each layer's attention together from what was recorded, and compares."""

    def __init__(self, *arguments: object):
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.masses: list[Masses] = []
        self.errors: list[float] = []
        self.is_equal: list[bool] = []
        self.is_own_row: list[bool] = []

    def _attend(self, layer: int, h: Tensor, by_kernels: bool) -> None:
        super()._attend(layer, h, by_kernels)
        assert self._attended is not None
        self.masses.append(self._attended[0])

    def attended(self, layer: int, h: Tensor, out: Tensor) -> None:
        super().attended(layer, h, out)
        self.errors.append(error(self._output(layer, self.masses[-1].out[None]), out))

    def computed(self, layer: int, buffers: native.PassBuffers) -> None:
        super().computed(layer, buffers)
        block, model = self._model.layers[layer], self._model
        attention, spec, view = block.attn, block.attn.spec, self._view
        _, q, kv = attention.project(self._normalised(layer, buffers.streams), self.batch, model.arithmetic)
        entries = view.rows(*attention.entries) if spec.compressed else None
        seen = self.layers[-1].entries
        chosen = seen.chosen[None] if spec.indexed else None
        if spec.indexed and len(seen.chosen) == seen.num_complete <= attention.topk and not self.chooses:
            chosen = None  # the kernels attend to all, in their order
        o = native.attend(
            q, attention.attn_sink, view.start, attention.window, view.window_rows(layer), kv, entries, spec.ratio,
            chosen,
        )  # fmt: skip
        out = self._output(layer, o)
        mixed = (
            ops.hc_expand(out, buffers.streams, *weights, model.arithmetic)
            for weights in ways_back(block, buffers.streams)
        )
        self.is_equal.append(any(torch.equal(one, buffers.mixed) for one in mixed))
        ring, record = view.window_rows(layer).storage, view.pool.layout.records.kv
        self.is_own_row.append(torch.equal(ring[view.start % len(ring)], record.encode(kv)[0]))
        self.errors.append(error(self.masses[-1].out[None], o))

    @property
    def chooses(self) -> bool:
        """True if the kernels choose even where all entries are attended to."""
        return self._model.arithmetic.released or ops.current().batch_invariant

    def _output(self, layer: int, o: Tensor) -> Tensor:
        attention, arithmetic = self._model.layers[layer].attn, self._model.arithmetic
        table = self.batch.table(attention.spec.compressed)
        rotated = ops.rotate(o.to(arithmetic.dtype), table, arithmetic, inverse=True)
        return attention.output(rotated, self.batch, arithmetic)


def ways_back(block: Block, streams: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The weights `post` and `comb` of attention's output, for each value that the RMS of the streams may have.

    The kernels sum squares in float32, in an order that no op has: the last places of their RMS are tried.
    """
    x = streams.flatten(1)
    fn, base, scale = (block.get_parameter(f"hc_attn_{name}") for name in ("fn", "base", "scale"))
    factor = 1 / (x.double().square().mean(-1, keepdim=True) + block.norm_eps).sqrt()
    products = native.linear(x, Weight.of(fn), torch.float32)
    for ulps in sorted(range(-LAST_ULPS, LAST_ULPS + 1), key=abs):
        mixes = products * (factor.float().view(torch.int32) + ulps).view(torch.float32)
        _, *weights = hyper_connection.hc_split(mixes, base, scale, streams.shape[1], block.iters, block.hc_eps)
        yield weights[0], weights[1]


def error(found: Tensor, expected: Tensor) -> float:
    difference = (found.double() - expected.double()).square().mean()
    return float((difference / expected.double().square().mean()).sqrt())


@pytest.fixture
def watchers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recomposing]]:
    made: list[Recomposing] = []

    def make(*arguments: object) -> Recomposing:
        made.append(Recomposing(*arguments))
        return made[-1]

    monkeypatch.setattr(read, "RowWatcher", make)
    yield made


def tokens_of(model: Transformer, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, model.config.vocab_size, (length,), generator=generator).tolist()


def sums(seen: Seen) -> list[float]:
    return [
        float(layer.window.sum()) + (float(layer.entries.mass.sum()) if layer.entries else 0.0) + layer.sink
        for layer in seen.layers
    ]  # fmt: skip


def step_probabilities(model: Transformer, ids: list[int]) -> Tensor:
    """The last token's next one by `forward_step`, one token at the end."""
    pool = model.new_pool(len(ids))
    sequence, tokens = pool.open(), torch.tensor(ids)
    if len(ids) > 1:
        model.forward_step(Step(tokens[:-1], [sequence], [len(ids) - 1]))
    return model.forward_step(Step(tokens[-1:], [sequence], [1], [0]))[0].double().softmax(-1)


def check(model: Transformer, length: int, watchers: list[Recomposing]) -> Recomposing:
    ids = tokens_of(model, length)
    seen = look_at(model, ids, length - 1)
    assert sums(seen) == pytest.approx([1] * len(seen.layers), abs=1e-6)
    assert len(seen.layers) == model.config.num_hidden_layers
    probabilities = step_probabilities(model, ids)
    assert [probabilities[token] for token, _ in seen.top] == [probability for _, probability in seen.top]
    watcher = watchers.pop()
    assert len(watcher.errors) == len(seen.layers)
    return watcher


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
@pytest.mark.parametrize("config", [CONFIG, ODD, WIDE], ids=["even", "odd", "wide"])
@pytest.mark.parametrize("arithmetic", ["exact", "released"])
@pytest.mark.parametrize("runtime", ["usual", "invariant", "int8"])
def test_the_kernels_attended_to_what_is_recorded(
    config: object, arithmetic: str, runtime: str, watchers: list[Recomposing]
) -> None:
    model = random_model(config, 1, Arithmetic(arithmetic, torch.bfloat16), packed=True)  # type: ignore[arg-type]
    activations = "int8" if runtime == "int8" else "bf16"
    with ops.using(backend="auto", batch_invariant=runtime == "invariant", activations=activations):
        for length in LENGTHS[1::2] if config is WIDE else LENGTHS:
            watcher = check(model, length, watchers)
            assert watcher.is_equal == [True] * config.num_hidden_layers, length  # type: ignore[attr-defined]
            assert watcher.is_own_row == watcher.is_equal
            assert max(watcher.errors) < KERNELS_ERROR


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
def test_another_choice_is_seen(watchers: list[Recomposing], monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that the bits must catch: the worst entry that was chosen becomes one that was not."""
    model = random_model(CONFIG, 1, Arithmetic("released", torch.bfloat16), packed=True)
    routed = RowWatcher.routed

    def wrong(self: RowWatcher, layer: int, weights: Tensor, ids: Tensor) -> None:
        routed(self, layer, weights, ids)
        entries = self.layers[-1].entries
        if entries is not None and entries.chosen is not None:
            others = set(range(entries.num_complete)) - set(entries.chosen.tolist())
            entries.chosen[-1] = min(others)

    monkeypatch.setattr(RowWatcher, "routed", wrong)
    with ops.using(backend="auto"):
        look_at(model, tokens_of(model, 396), 395)
    assert watchers.pop().is_equal == [spec.ratio != 4 for spec in model.config.main_layers]


@pytest.mark.parametrize("arithmetic", ["exact", "released"])
def test_masses_times_values_are_attention(arithmetic: str, watchers: list[Recomposing]) -> None:
    model = random_model(CONFIG, 1, Arithmetic(arithmetic), packed=arithmetic == "released")
    for length in LENGTHS:
        watcher = check(model, length, watchers)
        assert max(watcher.errors) < OUTPUT_ERROR[arithmetic], length


def test_layers_that_share_entries_and_choices(watchers: list[Recomposing]) -> None:
    """A successor's layers: `pre` comes late, and a choice is the one of an earlier layer."""
    model = random_model(successor.CONFIG, 0, Arithmetic("exact", torch.float32))
    seen = look_at(model, tokens_of(model, 300), 299)
    assert max(watchers.pop().errors) < OUTPUT_ERROR["exact"]
    assert sums(seen) == pytest.approx([1] * len(seen.layers), abs=1e-6)
    for layer, chooser in successor.CHOICE_OF.items():
        shared, own = seen.layers[layer].entries, seen.layers[chooser].entries
        assert shared is not None and own is not None
        assert set(shared.chosen.tolist()) == set(own.chosen.tolist()) and shared.scores is None
        assert own.scores is not None and len(own.mass) == successor.CONFIG.index_topk < own.num_complete
