"""What lies beside the weights of a checkpoint and belongs to a copy: tokenizer, templates, encoders, licences.

Weights of any kind, indexes, hidden files, and a model's own README (which speaks of that folder's weights) do not.
"""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Iterator
from pathlib import Path

PATTERNS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "generation_config.json",
    "chat_template*", "*.jinja", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
"""Names of files."""
FOLDERS = ("encoding",)
"""Folders that travel whole: DeepSeek-V4's own definition of its prompts."""
LARGEST_BYTES = 64 << 20
"""Bytes of a file, and files of a folder (FEW), beyond which something else lies there."""
FEW = 1000


def side_files(folder: Path) -> Iterator[Path]:
    """The paths, relative to `folder`, of the files that belong to a copy. Links are followed, as hubs' caches need.

    Raises ValueError for a file or a folder that is too large to be what its name says.
    """
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and any(fnmatch.fnmatch(entry.name, pattern) for pattern in PATTERNS):
            yield _checked(entry).relative_to(folder)
    for name in FOLDERS:
        inside = sorted(
            path for path in (folder / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )
        if len(inside) > FEW:
            raise ValueError(f"{folder / name}: holds {len(inside)} files; expected at most {FEW}")
        for path in inside:
            yield _checked(path).relative_to(folder)


def copy_side_files(source: Path, folder: Path) -> None:
    """Copy them from a checkpoint to `folder`, whose files of the same names stay."""
    for name in side_files(source):
        place = folder / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(source / name, place)


def _checked(path: Path) -> Path:
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ValueError(f"{path}: has {size:,} bytes; expected at most {LARGEST_BYTES:,} beside a checkpoint")
    return path
