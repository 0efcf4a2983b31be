"""A small configuration with every kind of layer, for tests to vary: SMALL.replace(index_topk=4); and a model of it."""

from __future__ import annotations

from pathlib import Path

from wavefold.chat import byte_tokenizer
from wavefold.checkpoint import random_checkpoint
from wavefold.config import ModelConfig, RopeScaling

SMALL = ModelConfig(
    vocab_size=64, hidden_size=64, num_hidden_layers=3, num_attention_heads=2, head_dim=64, qk_rope_head_dim=16,
    q_lora_rank=32, o_groups=2, o_lora_rank=16, compress_ratios=(0, 4, 128, 0), index_n_heads=2, index_head_dim=32,
    index_topk=8, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, num_hash_layers=1,
    routed_scaling_factor=1.5, rope_scaling=RopeScaling(),
)  # fmt: skip

SMALL_WITH_TEXT = SMALL.replace(vocab_size=300, num_nextn_predict_layers=0, compress_ratios=(0, 4, 128))
"""For a tokenizer of bytes. It has no MTP module."""


def small_model(folder: Path, config: ModelConfig = SMALL_WITH_TEXT, seed: int = 4) -> Path:
    """Writes a random checkpoint with a tokenizer of bytes into the new `folder`. Returns it."""
    random_checkpoint(config, folder, seed, finish=byte_tokenizer().save)
    return folder
