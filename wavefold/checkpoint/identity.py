"""A cheap identity of a checkpoint's weights: what a cache on disk is kept under. No file is read whole.

`fingerprint` reads 24 GB of DeepSeek-V4-Flash, which nobody waits for at each start. This digest is over all names,
types, shapes and places of tensors, over sizes and times of the files, and over 256 bytes of each tensor but most
routed experts: of those, the first one of each layer and matrix. The times are those of content and of the file's
entry, which no program can put back. So weights that were changed in place are other weights, as is a copy, which costs
a cold cache and no wrong token.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from wavefold.checkpoint.files import present_refs
from wavefold.experts import routed_expert

SAMPLE_BYTES = 256


def quick_identity(folder: Path) -> str:
    """Returns the digest (64 hexadecimal digits) of a folder's safetensors files, or of a GGUF file.

    Raises ValueError that names a file which cannot be read as one.
    """
    refs = sorted(present_refs(folder).items())
    sha = hashlib.sha256()
    files: dict[Path, int] = {}
    try:
        for name, ref in refs:
            sha.update(f"{name} {ref.dtype} {ref.shape} {ref.offset} {ref.nbytes}\n".encode())
            if ref.path not in files:
                files[ref.path] = os.open(ref.path, os.O_RDONLY)
                stat = os.fstat(files[ref.path])
                sha.update(f"{ref.path.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n".encode())
            if not routed_expert(name):  # None, or expert 0
                middle = ref.offset + max(0, ref.nbytes - SAMPLE_BYTES) // 2
                sha.update(os.pread(files[ref.path], min(SAMPLE_BYTES, ref.nbytes), middle))
    finally:
        for descriptor in files.values():
            os.close(descriptor)
    return sha.hexdigest()
