"""A model of a few hundred kilobytes with every kind of layer, and partial quantisation blocks at all edges."""

from collections.abc import Callable
from pathlib import Path

import pytest

from wavefold import ModelConfig, init

SMALL = ModelConfig(
    vocab_size=300, hidden_size=160, num_hidden_layers=3, num_attention_heads=2, head_dim=64, qk_rope_head_dim=16,
    q_lora_rank=144, o_groups=2, o_lora_rank=24, compress_ratios=(0, 4, 128, 0), index_n_heads=2, index_head_dim=32,
    index_topk=8, n_routed_experts=3, num_experts_per_tok=2, moe_intermediate_size=192, num_hash_layers=1,
    routed_scaling_factor=1.5,
)  # fmt: skip


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return SMALL


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random checkpoint whose routed experts are stored in a format. It is shared: do not change it."""
    folders: dict[str, Path] = {}

    def of(form: str) -> Path:
        if form not in folders:
            folders[form] = tmp_path_factory.mktemp("checkpoint") / form
            init(SMALL.replace(expert_dtype=form), folders[form], seed=7)
        return folders[form]

    return of
