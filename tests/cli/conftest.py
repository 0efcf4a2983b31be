"""A small random checkpoint, made by the command itself."""

import json
from pathlib import Path

import pytest

from tests import small
from wavefold.cli.main import main

SMALL = small.SMALL.replace(vocab_size=300, num_hidden_layers=2, compress_ratios=(4, 128, 0), n_routed_experts=3)


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
