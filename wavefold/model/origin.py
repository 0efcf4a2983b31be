"""The origin of a model, which a copy of it keeps beside the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Origin:
    """The checkpoint folder that a model was loaded from."""

    folder: Path
    config: Mapping[str, Any]
    """The unchanged keys of its `config.json`."""
    left_out: Mapping[str, Tensor] = field(default_factory=dict)
    """The tensors that the text model does not need, by name, memory-mapped. A saved copy holds them too."""
