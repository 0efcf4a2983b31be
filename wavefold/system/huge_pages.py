"""Pages of 2 MiB for weights: one entry of the processor's table of addresses serves 512 times as many bytes.

Linux gives them to anonymous memory whose owner asks (madvise), unless transparent huge pages are off. Few kernels and
file systems give them to mappings of files.
"""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

SETTING = "sys/kernel/mm/transparent_hugepage/enabled"


def check_huge_pages(root: Path = Path("/")) -> None:
    """Raises ValueError where the system gives no huge pages to memory that asks for them."""
    file = root / SETTING
    if not hasattr(mmap, "MADV_HUGEPAGE") or not file.is_file():
        raise ValueError("huge_pages = True needs Linux with transparent huge pages; expected False here")
    if "[never]" in (setting := file.read_text().strip()):
        raise ValueError(
            f"huge_pages = True is not allowed while {file} says {setting}; expected [madvise] or [always] there, "
            "which root can write, or False"
        )


def huge_memory(num_bytes: int) -> mmap.mmap:
    """Returns anonymous memory that has asked for huge pages. A kernel that has none gives usual ones."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def huge_bytes(root: Path = Path("/")) -> tuple[int, int]:
    """Returns the bytes of this process in huge pages: of anonymous memory and of mapped files. 0 where nobody says."""
    file = root / "proc/self/smaps_rollup"
    sizes = {"AnonHugePages": 0, "FilePmdMapped": 0}
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] = int(rest.split()[0]) << 10
    return sizes["AnonHugePages"], sizes["FilePmdMapped"]
