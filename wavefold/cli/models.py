"""MODEL on the command line: the model in its folder, as the flags say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.flags import as_flags

if TYPE_CHECKING:
    import torch

    from wavefold.model import Transformer


def dtype_of(name: str | None) -> torch.dtype | None:
    """The dtype of `--dtype`; None where the flag was not given."""
    import torch

    return None if name is None else getattr(torch, name)


def model_of(
    folder: Path, arithmetic: str, dtype: str | None, device: str = "cpu", threads: int | None = None
) -> Transformer:
    """The model in `folder`, for the benches. Raises ValueError for flags that cannot be used."""
    from wavefold.engine.open import open_model
    from wavefold.parallel.threads import use_threads

    with as_flags():
        use_threads(threads)
        return open_model(folder, arithmetic, dtype_of(dtype), device)
