"""Writes a trained model as an official checkpoint, with the quantization that training simulated."""

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
    """Writes official `tensors` to the folder `path`.

    In the arithmetic of training, the written model computes exactly the same numbers. `origin`: source of the extra
    keys and side files. `add_files(folder)` may add files before the folder appears at its place.
    """
    packed = Transformer(config)
    assign(packed, tensors)
    packed.origin = origin
    save(packed, path, add_files=add_files)


def origin_of(config: ModelConfig, init: Path | None) -> Origin | None:
    """Returns the source of extra keys and side files: the folder of the first weights, or None without one.

    Keys of a drafter are removed, since it was made for the first weights.
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
