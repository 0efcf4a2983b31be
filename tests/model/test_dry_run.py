"""What the ops state against formulas of the report, against torch's own counter, and against what they run."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests import small
from wavefold import ops
from wavefold.checkpoint.random import random_model
from wavefold.config import ModelConfig
from wavefold.model.dry_run import COUNTED_PARTS, count_decode_step
from wavefold.ops import Arithmetic, FlopCounter
from wavefold.ops.flops import COUNTED
from wavefold.plan.flops import decode_flops

FLASH, PRO = ModelConfig.preset("flash"), ModelConfig.preset("pro")
SMALL = small.SMALL.replace(
    num_hidden_layers=4, compress_ratios=(0, 4, 128, 4), index_topk=64, num_nextn_predict_layers=0,
    max_position_embeddings=4096,
)  # fmt: skip
NO_OPS = (
    "counting", "kernels_run", "part", "rope_frequencies", "rope_table", "current", "isas", "timing", "using",
    "choose", "kernels_choose",
)  # fmt: skip
"""Of `ops`, those that are no part of a pass."""
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "context"),
    [("flash", 4096), *(pytest.param(*case, marks=SLOW) for case in [
        ("flash", 65536), ("flash", 1_000_000), ("pro", 4096), ("pro", 65536), ("pro", 1_000_000)
    ])],
)  # fmt: skip
def test_full_size_models_do_what_the_formulas_say(name: str, context: int) -> None:
    """Formulas of 2 operations for a multiply-add, with the layer counts and widths of the two models written out."""
    config = {"flash": FLASH, "pro": PRO}[name]
    csa, hca, layers, heads, topk = {"flash": (21, 20, 43, 64, 512), "pro": (30, 31, 61, 128, 1024)}[name]
    counter = count_decode_step(config, context)
    assert counter.of("index") == csa * 2 * 64 * 128 * (context // 4)
    assert counter.of("csa") == 4 * 512 * heads * csa * min(topk, context // 4)
    assert counter.of("hca") == 4 * 512 * heads * hca * (context // 128)
    assert counter.of("window") == 4 * 512 * heads * layers * 128
    linear = {precision: count for (part, precision), count in counter.items() if part == "linear"}
    assert linear == decode_flops(config, context).linear
    billions = {precision: round(count / 2e9, 3) for precision, count in linear.items()}
    assert (
        billions
        == {
            "flash": {"fp8": 5.857, "fp4": 6.493, "bf16": 0.884, "fp32": 0.034},
            "pro": {"fp8": 22.701, "fp4": 24.178, "bf16": 1.886, "fp32": 0.084},
        }[name]
    )
    outside = sum(count for (part, _), count in counter.items() if part not in COUNTED_PARTS)
    assert 0 < outside < 0.02 * sum(counter.values())
    assert {"mhc", "hadamard", "pooling", "norm"} <= {part for part, _ in counter}


def real_step(config: ModelConfig, context: int) -> tuple[FlopCounter, int]:
    """The same step on a CPU with weights, and the operations of its matrix products as torch counts them."""
    model = random_model(config, 0, Arithmetic("released", torch.bfloat16), packed=True)
    tokens = torch.randint(0, config.vocab_size, (context,), generator=torch.Generator().manual_seed(0))
    sequence = model.new_pool(context).open()
    model.extend(tokens[:-1], [sequence], [context - 1])
    with ops.counting() as counter, FlopCounterMode(display=False) as torch_counter:
        model.logits(model.extend(tokens[-1:], [sequence], [1]))
    return counter, torch_counter.get_total_flops()


@pytest.mark.parametrize("context", [400, 512, 1000])
def test_a_dry_run_counts_what_a_real_step_does(context: int) -> None:
    dry = count_decode_step(SMALL, context)
    real, by_torch = real_step(SMALL, context)
    assert dry == real
    assert sum(real.of(part) for part in COUNTED_PARTS) == by_torch


def test_every_op_states_its_operations() -> None:
    """By its decorator, or in its body; tables of angles are made once for a pass, Sinkhorn is inside hc_weights, and
    some are of training alone, which is not counted; `reference_expert` runs where there are adapters, in no plan."""
    for name in ops.__all__:
        op = getattr(ops, name)
        if inspect.isfunction(op) and name not in NO_OPS:
            source = inspect.getsource(inspect.unwrap(op))
            states = name in COUNTED or "count(" in source or "count_linear(" in source
            training = "attend_sequences", "balance_loss", "cross_entropy_", "moves_rows", "sequence_index_loss"
            optimizer = "kernels_orthogonalize", "kernels_round", "multiply_", "muon_", "orthogonalize_", "round_weight"
            assert states or name in ("hc_split", "sinkhorn", "reference_expert", *training, *optimizer), name


def test_nothing_is_counted_outside_and_blocks_do_not_nest() -> None:
    x, weight = torch.ones(2, 8), torch.ones(8)
    with ops.counting() as counter:
        ops.rms_norm(x, weight, 1e-6, Arithmetic("exact"))
        with pytest.raises(RuntimeError, match="being counted already"), ops.counting():
            pass
    ops.rms_norm(x, weight, 1e-6, Arithmetic("exact"))
    assert counter == {("norm", ""): 4 * 16}


@pytest.mark.parametrize("context", [1, 0, -3, 4097])
def test_a_context_that_the_model_has_not(context: int) -> None:
    with pytest.raises(ValueError, match=f"context = {context} is not allowed; expected 2 to 4096"):
        count_decode_step(SMALL, context)
