"""Files beside the weights of a checkpoint that belong to a copy: tokenizer, templates, encoders, licences.

Weights of any kind, indexes, hidden files, and a model's own README (which speaks of that folder's weights) do not.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from wavefold.system import Notice

GENERATION_CONFIG = "generation_config.json"
"""How the makers of a checkpoint or an adapter sample from it."""
PATTERNS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", GENERATION_CONFIG,
    "chat_template*", "*.jinja", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
"""Names of files."""
FOLDERS = ("encoding",)
"""Folders that travel whole: DeepSeek-V4's own definition of its prompts."""
LARGEST_BYTES = 64 << 20
"""Bytes of a side file, at most. A larger one is something else."""
FEW = 1000
"""Files of a folder, at most."""


def side_files(folder: Path) -> Iterator[Path]:
    """The paths, relative to `folder`, of the files that belong to a copy.

    A link is followed where it leads into the folder itself or into the blobs beside it, as in a hub's cache; others
    are left out, and a Notice names them. Raises ValueError for a file or a folder that is too large for its
    name.
    """
    for entry in sorted(folder.iterdir()):
        if (
            entry.is_file()
            and any(fnmatch.fnmatch(entry.name, pattern) for pattern in PATTERNS)
            and _is_inside(entry, folder)
        ):
            yield _checked(entry).relative_to(folder)
    for name in FOLDERS:
        place = folder / name
        if not place.is_dir() or not _is_inside(place, folder):
            continue
        for number, path in enumerate(sorted(_walk(place))):
            if number == FEW:
                raise ValueError(f"{place}: holds more than {FEW} files; expected fewer")
            if _is_inside(path, folder):
                yield _checked(path).relative_to(folder)


def _walk(folder: Path) -> Iterator[Path]:
    """Files of a folder and of the folders in it, without links to folders: at most FEW + 1."""
    number = 0
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            yield Path(root) / name
            number += 1
            if number > FEW:
                return


def _is_inside(path: Path, folder: Path) -> bool:
    """True if `path` leads into the folder or to a hub's blobs; otherwise a Notice names it."""
    real, place = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(place) or real.is_relative_to(place.parents[min(1, len(place.parents) - 1)] / "blobs"):
        return True
    warnings.warn(f"{path}: leads out of the checkpoint, to {real}; not copied", Notice, stacklevel=3)
    return False


def copy_side_files(source: Path, folder: Path) -> None:
    """Copy the side files of `source` to `folder`, where files of the same names stay. A missing source is a Notice."""
    if not source.is_dir():
        warnings.warn(
            f"{source}: is gone; the copy has no tokenizer, templates or licences of it", Notice, stacklevel=3
        )
        return
    for name in side_files(source):
        place = folder / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(source / name, place)


def _checked(path: Path) -> Path:
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ValueError(f"{path}: has {size:,} bytes; expected at most {LARGEST_BYTES:,} beside a checkpoint")
    return path
