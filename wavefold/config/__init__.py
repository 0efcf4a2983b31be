"""What a model is: `ModelConfig` (model.py), and what the keys of a `config.json` mean (keys.py)."""

from wavefold.config.model import CSA, EXPERT_DTYPES, HCA, PRESETS_DIR, SWA, ModelConfig, RopeScaling

__all__ = ["CSA", "EXPERT_DTYPES", "HCA", "PRESETS_DIR", "SWA", "ModelConfig", "RopeScaling"]
