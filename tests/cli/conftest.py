"""A small random checkpoint, made by the command itself."""

import json
from pathlib import Path

import pytest

from wavefold import ModelConfig
from wavefold.cli.main import main

SMALL = ModelConfig(
    vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=32, qk_rope_head_dim=8,
    q_lora_rank=16, o_groups=2, o_lora_rank=8, compress_ratios=(4, 128, 0), index_n_heads=2, index_head_dim=16,
    index_topk=4, n_routed_experts=3, num_experts_per_tok=2, moe_intermediate_size=32, num_hash_layers=1,
    routed_scaling_factor=1.5,
)  # fmt: skip


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.json"
    path.write_text(json.dumps(SMALL.to_dict()))
    return path


@pytest.fixture(scope="session")
def model(config_file: Path) -> Path:
    """The folder of a checkpoint with a tokenizer of bytes. It is shared: do not change it."""
    folder = config_file.parent / "model"
    assert main(["init", "--config", str(config_file), "--seed", "3", "--out", str(folder)]) == 0
    return folder
