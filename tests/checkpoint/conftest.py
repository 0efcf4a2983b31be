"""A model of a few hundred kilobytes with every kind of layer, and partial quantization blocks at all edges."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import small
from wavefold import ModelConfig, random_checkpoint

SMALL = small.SMALL.replace(
    vocab_size=300, hidden_size=160, q_lora_rank=144, o_lora_rank=24, n_routed_experts=3, moe_intermediate_size=192
)


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
            random_checkpoint(SMALL.replace(expert_dtype=form), folders[form], seed=7)
        return folders[form]

    return of
