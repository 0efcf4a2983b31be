"""A small random model with every kind of layer."""

import pytest

from tests import small
from wavefold import Transformer
from wavefold.checkpoint import random_model
from wavefold.ops import Arithmetic

SMALL = small.SMALL.replace(vocab_size=40, max_position_embeddings=4096)


@pytest.fixture(scope="session")
def model() -> Transformer:
    return random_model(SMALL, seed=5, arithmetic=Arithmetic("exact"))
