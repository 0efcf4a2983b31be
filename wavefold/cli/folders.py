"""The folders of files that the program can make again."""

from __future__ import annotations

from pathlib import Path

from wavefold.system.folders import cache_folder


def prefix_folder() -> Path:
    """Where `--disk-cache` keeps prompts, unless `--cache-dir` names another folder."""
    return cache_folder() / "prefix"
