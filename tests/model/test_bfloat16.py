"""Exact arithmetic in bfloat16 against float32, on the same decoded weights, and against transformers' own bfloat16.

The measure is the mean over positions of KL(float32 || bfloat16) of the next token's distribution. What to expect:
rounding to 8 bits errs by 2^-9 / sqrt(3) = 1.1e-3 RMS, and a logit has some 100 independent roundings behind it here
(12 to a sublayer, 8 sublayers): an error of 1.1e-2 of the logits, which have unit variance, so KL = 1.1e-2 ** 2 / 2 =
6e-5. That holds where nothing is chosen. A choice of experts that falls otherwise moves a position by some 0.15, and an
error of 1e-2 turns about 1 choice in 100, in each of three layers: another 5e-3 in the mean, and little in the median.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'wavefold[test]'")

from transformers import DeepseekV4ForCausalLM, FineGrainedFP8Config

import wavefold
from tests.transformers_bridge import EAGER
from wavefold import ModelConfig

ROUNDING_KL = 1.5e-4
"""Mean where nothing is chosen; over 8 seeds 6e-5 to 9e-5 (transformers: 9e-5 to 1.3e-4)."""
CHOOSING_KL = 1.5e-2
"""Mean with choices; over 8 seeds 2.6e-3 to 6.6e-3 (transformers: 3.1e-3 to 6.9e-3)."""
CHOOSING_MEDIAN_KL = 3e-4
"""Median with choices; over 8 seeds 8e-5 to 1.4e-4 (transformers: 1.2e-4 to 1.9e-4)."""

CHOOSING = ModelConfig(
    vocab_size=1024, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, head_dim=512, qk_rope_head_dim=64,
    q_lora_rank=256, o_groups=2, o_lora_rank=128, compress_ratios=(0, 4, 128, 4), index_n_heads=32, index_head_dim=128,
    index_topk=32, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=256, num_hash_layers=1,
    routed_scaling_factor=1.5, num_nextn_predict_layers=0,
)  # fmt: skip
ALL_CHOSEN = CHOOSING.replace(num_experts_per_tok=8, index_topk=128)
TOKENS = torch.randint(0, CHOOSING.vocab_size, (2, 300), generator=torch.Generator().manual_seed(0))


def divergence(exact: Tensor, approximate: Tensor) -> Tensor:
    """KL(exact || approximate) of the distributions that logits [B, S, vocab] mean: [B, S], in nats."""
    p, q = (logits.cpu().double().log_softmax(-1) for logits in (exact, approximate))
    return (p.exp() * (p - q)).sum(-1)


def run(folder: Path, device: torch.device, arithmetic: str = "exact", dtype: torch.dtype | None = None) -> Tensor:
    """Our logits of `TOKENS`, by the model in `folder`."""
    with torch.no_grad():
        return wavefold.load(folder, arithmetic, dtype, device)(TOKENS.to(device))


SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seed", SEEDS)
def test_rounding_alone(seed: int, tmp_path: Path, device: torch.device) -> None:
    """All experts and entries are used: the error is rounding alone, and no more than transformers' in bfloat16."""
    wavefold.random_checkpoint(ALL_CHOSEN, tmp_path / "model", seed)
    exact = run(tmp_path / "model", device)
    ours = divergence(exact, run(tmp_path / "model", device, dtype=torch.bfloat16)).mean()
    assert ours < ROUNDING_KL

    dequantize = FineGrainedFP8Config(dequantize=True)
    other = DeepseekV4ForCausalLM.from_pretrained(
        tmp_path / "model", quantization_config=dequantize, dtype=torch.bfloat16, **EAGER
    ).to(device)
    with torch.no_grad():
        theirs = divergence(exact, other(TOKENS.to(device), use_cache=False).logits).mean()
    assert ours < 1.1 * theirs


@pytest.mark.parametrize("seed", SEEDS)
def test_with_choices(seed: int, tmp_path: Path, device: torch.device) -> None:
    wavefold.random_checkpoint(CHOOSING, tmp_path / "model", seed)
    exact = run(tmp_path / "model", device)
    kl = divergence(exact, run(tmp_path / "model", device, dtype=torch.bfloat16))
    assert kl.mean() < CHOOSING_KL
    assert kl.median() < CHOOSING_MEDIAN_KL


def test_measure_sees_quantized_activations(tmp_path: Path) -> None:
    """The mutant: released arithmetic rounds activations to FP8 and FP4, an error that the bound must not admit."""
    cpu = torch.device("cpu")
    wavefold.random_checkpoint(ALL_CHOSEN, tmp_path / "model", seed=0)
    exact = run(tmp_path / "model", cpu)
    assert divergence(exact, run(tmp_path / "model", cpu, arithmetic="released")).mean() > 10 * ROUNDING_KL
