"""A run's state on disk: masters, moments, step. Written whole or not at all; the last good one is never lost.

    OUT/state/step-000200/{shard-00001-....safetensors, ..., state.json}      the newest two are kept

Tensors are written by `torch.distributed.checkpoint` as safetensors, each process its shards: a state loads into any
number of processes, and nothing in it is executed.
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


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], record: dict[str, Any], group: Group) -> None:
    """Write the state after `step` steps; all processes call it. Raises OSError where the disk is full."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh, place = folder / f".step-{step:06d}", folder / f"step-{step:06d}"
    if group.first:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
    group.wait()
    try:
        with warnings.catch_warnings():  # of processes that are not there
            warnings.simplefilter("ignore")
            writer = dcp.HuggingFaceStorageWriter(str(fresh), save_distributed=True)
            tensors = dict(sorted(tensors.items()))  # a resumed run's moments come in another order
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
        for old in states(folder)[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
    group.wait()


def states(folder: Path) -> list[Path]:
    """The folders of all states, by step."""
    found = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*")]
    return [path for _, path in sorted((int(name[1]), path) for name, path in found if name)]


def newest_state(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest state's folder and facts ("step" among them); None when there is none."""
    every = states(folder)
    if not every:
        return None
    try:
        record = json.loads((every[-1] / "state.json").read_text())
        return every[-1], {**record, "step": int(record["step"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(every[-1], error) from None


def sweep_states(folder: Path) -> None:
    """Remove what killed writers left, and say so. For the one process that holds the run's folder."""
    for entry in sorted(folder.glob(".step-*")):
        name = re.match(r"\.(step-\d+)", entry.name)
        if name and entry.name.endswith(".old") and not (folder / name[1]).exists():
            entry.rename(folder / name[1])
            continue
        shutil.rmtree(entry, ignore_errors=True)
        warnings.warn(f"{entry}: removed a state that an interrupted write had left", Notice, stacklevel=2)


def load_tensors(state: Path, names: dict[str, Tensor], group: Group) -> None:
    """Fill the tensors `names`, sharded ones with this process's rows. Raises ValueError for a damaged state."""
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
    """Names and whole shapes of the tensors of a state."""
    try:
        metadata = dcp.HuggingFaceStorageReader(str(state)).read_metadata()
    except Exception as error:  # whatever a damaged file makes the reader say
        raise _unread(state, error) from None
    return {name: entry.size for name, entry in metadata.state_dict_metadata.items() if hasattr(entry, "size")}


def _unread(state: Path, error: BaseException) -> ValueError:
    """A damaged state; or a good one that could not be read now, which nobody should remove."""
    short = isinstance(error, (OSError, MemoryError)) or "memory" in str(error)
    if short and not isinstance(error, FileNotFoundError):
        return ValueError(f"{state}: could not be read now ({error}); the state may be good: try again")
    return _damaged(state, error)


def _damaged(state: Path, error: BaseException) -> ValueError:
    return ValueError(f"{state}: not a readable training state ({error}); remove it to use the one before")
