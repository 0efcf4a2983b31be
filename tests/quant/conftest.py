"""Fixtures of the number formats' tests."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(scope="session")
def op_vectors() -> dict[str, torch.Tensor]:
    """Inputs and outputs of the official code's single operations; codes and scales as raw bytes."""
    return load_file(VECTORS / "ops" / "vectors.safetensors")
