"""A run's state on disk: masters, optimizer, step. Written whole or not at all; the last good one is never lost.

OUT/state/step-000200/{tensors.safetensors, state.json}      the newest two are kept
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavefold.checkpoint.write import write_folder

KEEP = 2


def save_state(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state after `step` steps."""

    def fill(fresh: Path) -> None:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, fresh / "tensors.safetensors")
        (fresh / "state.json").write_text(json.dumps({"step": step, **facts}))

    write_folder(folder / f"step-{step:06d}", fill)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """The newest state: (steps done, tensors, facts); None when there is none. Raises ValueError for a damaged one."""
    states = sorted(folder.glob("step-*"))
    if not states:
        return None
    try:
        facts = json.loads((states[-1] / "state.json").read_text())
        return facts["step"], load_file(states[-1] / "tensors.safetensors"), facts
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"{states[-1]}: not a readable training state ({error}); remove it to use the one before"
        ) from None


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    """The optimizer's moments by parameter name; `names` maps id(parameter) to it."""
    return {
        f"optimizer.{names[id(parameter)]}.{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: dict[int, str], tensors: dict[str, Tensor]) -> None:
    """Give the optimizer the moments that `optimizer_tensors` took."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"optimizer.{names[id(parameter)]}."
            found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            if found:
                optimizer.state[parameter] = found
