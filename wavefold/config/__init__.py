"""What a model is: `ModelConfig` (model.py), and what the keys of a `config.json` mean (keys.py)."""

from wavefold.config.keys import CSA, HCA, SWA
from wavefold.config.model import (
    EXPERT_DTYPES,
    PRESETS_DIR,
    ModelConfig,
    RopeScaling,
    preset_names,
    read_config,
    read_values,
)

__all__ = [
    "CSA", "EXPERT_DTYPES", "HCA", "PRESETS_DIR", "SWA", "ModelConfig", "RopeScaling", "preset_names", "read_config",
    "read_values",
]  # fmt: skip
