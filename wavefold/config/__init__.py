"""The configuration: `ModelConfig` (model.py), `LayerSpec` (layers.py), the keys of a `config.json` (keys.py)."""

from wavefold.config.layers import COMPRESSIONS, CSA, HCA, SWA, WINDOW_PART, Compression, LayerSpec
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
    "COMPRESSIONS", "CSA", "EXPERT_DTYPES", "HCA", "PRESETS_DIR", "SWA", "WINDOW_PART", "Compression", "LayerSpec",
    "ModelConfig", "RopeScaling", "preset_names", "read_config", "read_values",
]  # fmt: skip
