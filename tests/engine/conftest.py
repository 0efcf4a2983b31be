"""A small random model with every kind of layer."""

import pytest

from wavefold import ModelConfig, Transformer
from wavefold.checkpoint import random_model

SMALL = ModelConfig(
    vocab_size=40, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, head_dim=32, qk_rope_head_dim=8,
    q_lora_rank=16, o_groups=2, o_lora_rank=8, compress_ratios=(0, 4, 128, 0), index_n_heads=2, index_head_dim=16,
    index_topk=4, n_routed_experts=3, num_experts_per_tok=2, moe_intermediate_size=32, num_hash_layers=1,
    routed_scaling_factor=1.5, max_position_embeddings=4096,
)  # fmt: skip


@pytest.fixture(scope="session")
def model() -> Transformer:
    return random_model(SMALL, seed=5)
