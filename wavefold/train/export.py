"""A trained model as an official checkpoint: what quantization-aware training simulated, now stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from wavefold.checkpoint.load import assign
from wavefold.checkpoint.save import save
from wavefold.config import ModelConfig, read_values
from wavefold.config.keys import WITHOUT_EFFECT_PREFIXES
from wavefold.model import Transformer
from wavefold.model.origin import Origin


def export(
    config: ModelConfig, tensors: Mapping[str, Tensor], path: Path, origin: Origin | None = None,
    add_files: Callable[[Path], None] = lambda folder: None,
) -> None:  # fmt: skip
    """Write the folder `path` of official `tensors`.

    The model there computes, in the arithmetic of training, the very same numbers. `origin` says whose keys and side
    files it keeps; `add_files(folder)` may add files before the folder appears.
    """
    packed = Transformer(config)
    assign(packed, tensors)
    packed.origin = origin
    save(packed, path, add_files=add_files)


def origin_of(config: ModelConfig, init: Path | None) -> Origin | None:
    """Where a trained model's keys and side files come from: the folder of its first weights; None where it has none.

    A drafter was made for the first weights, so neither its keys nor its announcement stay.
    """
    if init is None:
        return None
    values = config.written_over(read_values(init))
    values = {key: value for key, value in values.items() if not key.startswith(tuple(WITHOUT_EFFECT_PREFIXES))}
    if not config.num_nextn_predict_layers:
        values |= {"num_nextn_predict_layers": 0}
        if "compress_ratios" in values:
            values |= {"compress_ratios": config.to_dict()["compress_ratios"]}
    return Origin(init, values)
