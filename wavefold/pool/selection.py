"""Which files of a repository become a model of the folder, and under which names. All lie side by side there.

    weights      *.safetensors, *.gguf
    beside them  *.json, tokenizers, templates, README, licences; beside GGUF files only the last two

Nothing else is taken: no pickles, which may hold code, and no code. A part of the files, as one of several GGUF models,
is chosen by patterns, as `hf download --include` has them.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import NamedTuple

from wavefold.pool.folder import ADAPTER_CONFIG, PART
from wavefold.pool.hub import RemoteFile
from wavefold.pool.record import RECORD
from wavefold.system.sizes import gib

WEIGHTS = ("*.safetensors", "*.gguf")
PAPERS = ("README*", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
BESIDE = (
    "*.json",
    "tokenizer.model",
    "tokenizer.model.v*",
    "*.tiktoken",
    "vocab.txt",
    "merges.txt",
    "*.jinja",
    *PAPERS,
)
CONFIGS = ("config.json", ADAPTER_CONFIG)
CODE = (".py", ".pyc", ".so", ".sh", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".h5")
"""Endings that are never taken, whatever stands before them."""
LARGEST_BESIDE = 256 << 20
"""Bytes of a file that is no weights, at most."""
FILE_NAME = re.compile(r"[A-Za-z0-9_][^/\\\x00-\x1f\x7f]{0,199}")


class Selection(NamedTuple):
    """`files` by their names in the folder; `left` are the files that are not taken."""

    files: dict[str, RemoteFile]
    left: list[RemoteFile]


def select(repo: str, files: Sequence[RemoteFile], include: Sequence[str] = ()) -> Selection:
    """Returns the files to pull. Raises ValueError where they are no model, or several, with what there is."""
    patterns = [pattern + "*" if pattern.endswith("/") else pattern for pattern in include]
    chosen: dict[str, RemoteFile] = {}
    for file in files:
        # Without patterns, what lies in folders is for other programs.
        wanted = any(fnmatch.fnmatchcase(file.path, one) for one in patterns) if patterns else "/" not in file.path
        name = _name(file)
        if not wanted or not _is_taken(file):
            continue
        if name in chosen:
            raise ValueError(f"{repo}: {chosen[name].path} and {file.path} have one name; choose by --include")
        chosen[name] = file
    weights = [name for name in chosen if _matches(name, WEIGHTS)]
    if not weights:
        raise ValueError(f"{repo}: {_no_weights(files, include)}")
    _check_gguf(repo, weights, chosen)
    tops = {file.path for file in files}
    if not any(name.endswith(".gguf") for name in weights) and not any(
        name in tops | chosen.keys() for name in CONFIGS
    ):
        raise ValueError(f"{repo}: holds no {' and no '.join(CONFIGS)} with its safetensors; expected a language model")
    beside = PAPERS if all(name.endswith(".gguf") for name in weights) else BESIDE
    for file in files:
        if "/" not in file.path and _is_taken(file) and not _matches(file.path, WEIGHTS):
            chosen.setdefault(file.path, file)
    kept = {name: file for name, file in sorted(chosen.items()) if _matches(name, WEIGHTS + beside)}
    paths = {file.path for file in kept.values()}
    return Selection(kept, [file for file in files if file.path not in paths])


def _name(file: RemoteFile) -> str:
    return file.path.rpartition("/")[2]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_taken(file: RemoteFile) -> bool:
    """True for a file of a kind that is pulled, under a name that a folder can have."""
    name = _name(file)
    if not FILE_NAME.fullmatch(name) or name == RECORD or name.lower().endswith(CODE):
        return False
    return _matches(name, WEIGHTS) or (_matches(name, BESIDE) and file.num_bytes <= LARGEST_BESIDE)


def _no_weights(files: Sequence[RemoteFile], include: Sequence[str]) -> str:
    """Why nothing can be pulled, and what could."""
    there = [file for file in files if _matches(_name(file), WEIGHTS)]
    if there:
        reason = f"--include {' '.join(include)} matches none" if include else "they lie in folders"
        return f"holds {len(there)} files of weights, but {reason}; choose by --include: {_listed(there)}"
    pickles = [file.path for file in files if file.path.lower().endswith(CODE[4:])]
    reason = f" ({pickles[0]} may hold code)" if pickles else ""
    return f"holds no *.safetensors and no *.gguf, and nothing else is pulled{reason}"


def _check_gguf(repo: str, weights: Sequence[str], chosen: dict[str, RemoteFile]) -> None:
    """Raises ValueError for several GGUF models, or GGUF beside safetensors."""
    gguf = [name for name in weights if name.endswith(".gguf")]
    stems = {part["stem"] if (part := PART.fullmatch(name.removesuffix(".gguf"))) else name for name in gguf}
    if len(stems) > 1 or (gguf and len(gguf) < len(weights)):
        kinds = f"{len(stems)} GGUF models" if len(gguf) == len(weights) else "GGUF files beside safetensors"
        raise ValueError(
            f"{repo}: holds {kinds}; choose one by --include: {_listed([chosen[name] for name in weights])}"
        )


def _listed(files: Sequence[RemoteFile]) -> str:
    """Weights with their sizes, parts together: what --include can be given."""
    groups: dict[str, int] = {}
    for file in files:
        part = PART.fullmatch(file.path.removesuffix(".gguf"))
        name = f"{part['stem']}-*" if part else file.path
        groups[name] = groups.get(name, 0) + file.num_bytes
    shown = [f"{name!r} ({gib(num_bytes)})" for name, num_bytes in sorted(groups.items())]
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")
