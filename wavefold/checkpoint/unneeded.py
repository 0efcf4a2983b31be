"""Tensors of the family's checkpoints that the text model does not need, by kind.

Later releases ship a drafter in place of the MTP module, some files hold copies of embedding and head inside `mtp.0`,
tools keep the routers' biases of hash layers (where a table chooses) and tables of rotary frequencies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from wavefold.config import ModelConfig

DRAFTER = "a drafter, or MTP modules that config.json does not announce"
COPIES = "copies of embedding and head inside the MTP module"
BIAS = "routers' biases of hash layers"
FREQUENCIES = "tables of rotary frequencies"


def kind_of_unneeded(name: str, config: ModelConfig) -> str | None:
    """The kind of a tensor that the model does not have; None for a tensor of no known kind."""
    if name.endswith("inv_freq"):
        return FREQUENCIES
    if re.fullmatch(r"mtp\.\d+\.(emb|embed|head|lm_head|shared_head)\..*", name):
        return COPIES
    module = re.match(r"mtp\.(\d+)\.", name)
    if module and int(module[1]) >= config.num_nextn_predict_layers:
        return DRAFTER
    layer = re.fullmatch(r"layers\.(\d+)\.ffn\.gate\.bias", name)
    if layer and int(layer[1]) < config.num_hidden_layers and config.layers[int(layer[1])].hashed:
        return BIAS
    return None


def by_kind(names: Iterable[str], config: ModelConfig) -> tuple[dict[str, list[str]], list[str]]:
    """Returns ({kind: names that are not needed}, names of no known kind)."""
    kinds: dict[str, list[str]] = {}
    unknown: list[str] = []
    for name in sorted(names):
        kind = kind_of_unneeded(name, config)
        (unknown if kind is None else kinds.setdefault(kind, [])).append(name)
    return kinds, unknown


def described(kinds: Mapping[str, list[str]]) -> str:
    """The kinds and their numbers of tensors, on one line."""
    parts = [f"{len(names)} of {kind} ({names[0]} first)" for kind, names in kinds.items()]
    return "; ".join(parts)
