"""The folders of wavefold: of files that the program can make again, and of those that it cannot."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/wavefold`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wavefold"


def data_folder() -> Path:
    """`$XDG_DATA_HOME/wavefold`, by default below `~/.local/share`: what the program cannot make again."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "wavefold"


def models_folder() -> Path:
    """The folder of models, in `data_folder`."""
    return data_folder() / "models"
