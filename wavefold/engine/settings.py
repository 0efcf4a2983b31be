"""What the arguments of `wavefold.LLM` may be. What the checkpoint and the machine allow of them is asked later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from wavefold.engine.arguments import FLAG, TEXT, Rule, by_key, kind, text, whole
from wavefold.engine.budget import Share
from wavefold.engine.open import OverRanks
from wavefold.engine.runner import MOST_DRAFTS

MOST_THREADS = 1024
RULES: Mapping[str, Rule] = {
    "path": kind((str, os.PathLike), "the path of a checkpoint folder").or_none(),
    "arithmetic": TEXT,
    "dtype": kind(torch.dtype, "a type such as torch.bfloat16").or_none(),
    "device": kind((str, torch.device), "a device such as 'cpu'"),
    "threads": whole(1, MOST_THREADS).or_none(),
    "strict": FLAG,
    "batch_invariant": FLAG,
    "over_ranks": kind(OverRanks, "OverRanks(...)").or_none(),
    "kernels": TEXT.or_none(),
    "activations": TEXT,
    "huge_pages": FLAG,
    "cache_tokens": whole(1).or_none(),
    "memory": kind((int, str, Share), "a size such as '24G', 1.5GiB or a number of bytes").or_none(),
    "width": whole(1, 1024),
    "draft_depth": whole(0, MOST_DRAFTS, " (no guesses)"),
    "drafts": TEXT.or_none(),
    "prefix_cache": FLAG,
    "snapshot_every": whole(128),
    "cache_dir": kind((str, os.PathLike), "the path of a folder").or_none(),
    "adapters": by_key(text(1), kind((str, os.PathLike), "a path"), "adapters' folders by name").or_none(),
    "disk_cache": kind((int, str), "a size such as '20G', 1.5GiB or a number of bytes").or_none(),
}


def used(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Returns the arguments by name as they are used. Raises ValueError for one of another type or range."""
    return {name: rule.used(name, arguments[name]) for name, rule in RULES.items()}
