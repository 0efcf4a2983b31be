"""The configuration against the release whose matrices have the same widths.

Values that no tensor's shape tells (a rope base, the indexer's top-k) can be wrong without an error. Copies, slices and
quantizations of a release have its widths, so that they must have these values, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from wavefold.config import ModelConfig, preset_names
from wavefold.doctor.finding import Finding, failed, passed, skipped
from wavefold.doctor.patient import Patient

WIDTHS = (
    "hidden_size", "num_attention_heads", "head_dim", "q_lora_rank", "o_groups", "o_lora_rank", "index_n_heads",
    "index_head_dim", "moe_intermediate_size",
)  # fmt: skip
"""Keys that shapes tell."""
UNSEEN = (
    "rope_theta", "compress_rope_theta", "rope_scaling", "index_topk", "sliding_window", "num_experts_per_tok",
    "routed_scaling_factor", "swiglu_limit", "rms_norm_eps", "hc_eps", "hc_sinkhorn_iters", "qk_rope_head_dim",
    "scoring_func", "norm_topk_prob",
)  # fmt: skip
"""Keys that change what is computed and that no shape tells."""


def profile(patient: Patient) -> Iterator[Finding]:
    config = patient.config
    assert config is not None
    name = release_of(config)
    if name is None:
        yield skipped("configuration", "its widths are those of no release; rope bases, top-k and the like stay unseen",
                      "give --against MODEL, the official folder")  # fmt: skip
        return
    release = ModelConfig.preset(name)
    wrong = [key for key in UNSEEN if getattr(config, key) != getattr(release, key)]
    for key in wrong:
        yield failed(
            key, f"{key} = {getattr(config, key)}; the release {name}, whose widths these are, has "
            f"{getattr(release, key)}", f"set {key} to {getattr(release, key)}, unless the model was trained with it",
        )  # fmt: skip
    ratios = [[spec.ratio for spec in one.main_layers] for one in (config, release)]
    if any(found != expected for found, expected in zip(*ratios, strict=False)):
        yield failed("compress_ratios", f"differ from those of the release {name}", "take the release's config.json")
    elif not wrong:
        yield passed("configuration", f"{len(UNSEEN)} values that no shape tells are those of the release {name}")


def release_of(config: ModelConfig) -> str | None:
    """Returns the preset with the same widths, or None."""
    for name in preset_names():
        release = ModelConfig.preset(name)
        if all(getattr(config, key) == getattr(release, key) for key in WIDTHS):
            return name
    return None
