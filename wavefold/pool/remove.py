"""Removing models of a folder. What goes is hidden first, so that no half of it is ever offered.

A server that has a model loaded keeps it until it unloads it: its files are mapped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from wavefold.atomic import MARK, holding, sweep
from wavefold.pool.folder import ADAPTER_CONFIG, PART, Entry, entries
from wavefold.pool.pull import LOCK, UNFINISHED, staging_of


class Removal(NamedTuple):
    """What is to go: `paths` in the folder, in this order; `num_bytes` of files, 0 for links; `texts` for a user."""

    paths: tuple[Path, ...]
    num_bytes: int
    texts: tuple[str, ...]


def plan_removal(folder: Path, name: str, with_adapters: bool = False) -> Removal:
    """Returns what removing a model, an adapter (`base:name` or `name`) or an unfinished pull takes away.

    Raises ValueError for a name that is not there or that several have, and for a base that adapters need.
    """
    models = entries(folder)
    entry = models.get(name)
    if entry is None:
        return _unnamed(folder, name, models)
    adapters = [one for one in models.values() if one.base == name] if entry.kind != "adapter" else []
    if adapters and not with_adapters:
        names = ", ".join(one.name for one in adapters)
        raise ValueError(f"{name}: is the base of {names}; remove those first, or all by --with-adapters")
    paths = [path for one in (*adapters, entry) for path in _paths(folder, one)]
    return Removal(tuple(paths), sum(map(_bytes, paths)), tuple(one.name for one in (*adapters, entry)))


def remove(removal: Removal) -> None:
    """Removes what was planned. Raises OSError; ValueError for a pull that another process is at."""
    for path in removal.paths:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.suffix == UNFINISHED:
            with holding(path / LOCK):
                _remove_folder(path)
        else:
            _remove_folder(path)


def _remove_folder(path: Path) -> None:
    sweep(path)
    hidden = path.with_name(f".{path.name}.{MARK}{os.urandom(4).hex()}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _unnamed(folder: Path, name: str, models: Mapping[str, Entry]) -> Removal:
    """What a name that is no model's may mean: an adapter without its base's name, or an unfinished pull."""
    found = [one for one in models if name and one.endswith(f":{name}")]
    if len(found) == 1:
        return plan_removal(folder, found[0])
    staging = staging_of(folder, name)
    if "/" not in name and staging.is_dir():
        return Removal((staging,), _bytes(staging), (f"the unfinished pull of {name}",))
    names = ", ".join(found or models) or "none"
    raise ValueError(
        f"{name}: names {'several adapters' if found else 'no model'} of {folder}; expected one of {names}"
    )


def _paths(folder: Path, entry: Entry) -> list[Path]:
    """The files or the folder in `folder` that an entry is. Raises ValueError where two have its name."""
    if entry.kind == "adapter":
        return [entry.path]
    parts = [path for path in sorted(folder.glob("*.gguf")) if _stem(path) == entry.name and path.stem != entry.name]
    places = [path for path in (folder / entry.name, folder / f"{entry.name}.gguf") if _is_model(path)]
    if len(places) + bool(parts) > 1:
        names = " and ".join(path.name for path in [*places, *parts[:1]])
        raise ValueError(f"{entry.name}: {names} in {folder} have one name; rename one")
    return [*places, *parts]


def _bytes(path: Path) -> int:
    """Bytes that go with a file or folder; none with a link."""
    if path.is_symlink():
        return 0
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
    return sum(one.stat().st_size for one in files)


def _stem(path: Path) -> str:
    """The name of a GGUF file's model."""
    part = PART.fullmatch(path.stem)
    return part["stem"] if part else path.stem


def _is_model(path: Path) -> bool:
    """True for a GGUF file, or a folder that is no adapter's."""
    return (path.is_file() and path.suffix == ".gguf") or (path.is_dir() and not (path / ADAPTER_CONFIG).is_file())
