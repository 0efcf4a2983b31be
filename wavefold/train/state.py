"""State of a run on disk: masters, moments, step. Writes are atomic, and the last good state is never lost.

    OUT/state/step-000200/{shard-00001-....safetensors, ..., state.json}      the newest two are kept

A run with `anticipate` also keeps the newest one of `save_every`, to which it goes back after a spike: the states of
stops lie at any step.

`torch.distributed.checkpoint` writes tensors as safetensors, and every process writes its shards. A state loads into
any number of processes, and loading executes nothing in it.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from wavefold.atomic import put_in_place
from wavefold.system import Notice
from wavefold.waves.group import Group

KEEP = 2


def save_state(
    folder: Path, step: int, tensors: dict[str, Tensor], record: dict[str, Any], group: Group, every: int = 1
) -> None:
    """Writes the state after `step` steps. All processes call it. Raises OSError if the disk is full.

    The newest states are kept, and the newest after a multiple of `every` steps.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh, place = folder / f".step-{step:06d}", folder / f"step-{step:06d}"
    if group.first:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
    group.wait()
    try:
        with warnings.catch_warnings():  # torch warns about missing processes
            warnings.simplefilter("ignore")
            writer = dcp.HuggingFaceStorageWriter(str(fresh), save_distributed=True)
            tensors = dict(sorted(tensors.items()))  # the moments of a resumed run have another order
            dcp.save(tensors, storage_writer=writer, no_dist=group.size == 1)
    except dcp.CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if group.first:
            shutil.rmtree(fresh, ignore_errors=True)
        raise OSError(f"{place}: the state could not be written ({cause}); the one before is kept") from None
    group.wait()
    if group.first:
        (fresh / "state.json").write_text(json.dumps({"step": step, **record}))
        put_in_place(fresh, place)
        kept = {*states(folder)[-KEEP:], *states(folder, every)[-1:]}
        for old in set(states(folder)) - kept:
            shutil.rmtree(old, ignore_errors=True)
    group.wait()


def states(folder: Path, every: int = 1) -> list[Path]:
    """Returns the folders of the states after multiples of `every` steps, in the order of steps."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted((path for path in found if _step_of(path) % every == 0), key=_step_of)


def _step_of(state: Path) -> int:
    return int(state.name.removeprefix("step-"))


def newest_state(folder: Path, every: int = 1) -> tuple[Path, dict[str, Any]] | None:
    """Returns folder and record (with "step") of the newest state, or None without a state.

    `every`: a state after a multiple of so many steps is preferred to newer ones.
    """
    found = states(folder, every) or states(folder)
    if not found:
        return None
    try:
        record = json.loads((found[-1] / "state.json").read_text())
        return found[-1], {**record, "step": int(record["step"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(found[-1], error) from None


def remove_newer(folder: Path, step: int, group: Group) -> None:
    """Removes the states after more than `step` steps. All processes call it."""
    if group.first:
        for state in states(folder):
            if _step_of(state) > step:
                shutil.rmtree(state.rename(folder / f".{state.name}.removed"))  # a killed one is swept
    group.wait()


def sweep_states(folder: Path) -> None:
    """Removes the leftovers of killed writers, with a notice. Only the process with the lock calls it."""
    for entry in sorted(folder.glob(".step-*")):
        name = re.match(r"\.(step-\d+)", entry.name)
        if name and entry.name.endswith(".old") and not (folder / name[1]).exists():
            entry.rename(folder / name[1])
            continue
        shutil.rmtree(entry, ignore_errors=True)
        warnings.warn(f"{entry}: removed a state that an interrupted write had left", Notice, stacklevel=2)


def load_tensors(state: Path, names: dict[str, Tensor], group: Group) -> None:
    """Fills the tensors in `names`; sharded ones get the local rows. Raises ValueError for a damaged state."""
    shapes = stored_shapes(state)
    wrong = [name for name, tensor in names.items() if shapes.get(name) != tensor.shape]
    if wrong:
        stored = "not there" if wrong[0] not in shapes else f"{list(shapes[wrong[0]])} there"
        raise ValueError(
            f"{state}: {len(wrong)} tensors are of other sizes: {wrong[0]} is {stored}, {list(names[wrong[0]].shape)} "
            "in this run; the state is good, but of another run: give another --out"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(names, storage_reader=dcp.HuggingFaceStorageReader(str(state)), no_dist=group.size == 1)
    except dcp.CheckpointException as error:
        raise _unread(state, next(iter(error.failures.values()))[0]) from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unread(state, error) from None


def stored_shapes(state: Path) -> dict[str, torch.Size]:
    """Returns the names and whole shapes of the tensors of a state."""
    try:
        metadata = dcp.HuggingFaceStorageReader(str(state)).read_metadata()
    except Exception as error:  # a damaged file can raise anything in the reader
        raise _unread(state, error) from None
    return {name: entry.size for name, entry in metadata.state_dict_metadata.items() if hasattr(entry, "size")}


def _unread(state: Path, error: BaseException) -> ValueError:
    """Returns the error for a damaged state, or for a good one that cannot be read now and must not be removed."""
    short = isinstance(error, (OSError, MemoryError)) or "memory" in str(error)
    if short and not isinstance(error, FileNotFoundError):
        return ValueError(f"{state}: could not be read now ({error}); the state may be good: try again")
    return _damaged(state, error)


def _damaged(state: Path, error: BaseException) -> ValueError:
    return ValueError(f"{state}: not a readable training state ({error}); remove it to use the one before")
