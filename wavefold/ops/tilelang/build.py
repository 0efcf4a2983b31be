"""Compiles a TileLang kernel to CUDA source, and with nvcc to a cubin. Reports its resources. Needs no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHITECTURE = "sm_90a"
TARGET = {"kind": "cuda", "arch": ARCHITECTURE}
PASSES = {"tl.disable_tma_lower": True, "tl.disable_warp_specialized": True}
"""Off: rows are gathered and loops follow a task list, which neither TMA nor warp specialization supports."""


@dataclass(frozen=True)
class Resources:
    """Resources of a kernel: registers per thread, spilled and shared bytes, tensor-core and copy instructions."""

    registers: int
    spilled: int
    shared: int
    wgmma: int
    async_copies: int


@dataclass(frozen=True)
class Generated:
    """CUDA C++ of a kernel, and the bytes of dynamic shared memory of its launch."""

    source: str
    dynamic_shared: int


def generate(kernel: Any) -> Generated:
    """Returns a `T.prim_func` of `kernels.py` as CUDA C++."""
    import tilelang
    from tilelang import tvm

    target = tvm.target.Target(TARGET)
    with target, tvm.transform.PassContext(config=PASSES):
        artifact = tilelang.lower(kernel, target=target, enable_host_codegen=False, enable_device_compile=False)
    (function,) = artifact.device_mod.functions.values()
    return Generated(str(artifact.kernel_source), int(function.attrs["dyn_shared_memory_buf"]))


def has_compiler() -> bool:
    """True if nvcc is on the PATH."""
    return shutil.which("nvcc") is not None


def compile_cubin(generated: Generated, folder: Path, name: str) -> Resources:
    """Writes folder/name.cu, .ptx and .cubin. Raises RuntimeError with the output of nvcc if it fails."""
    import tilelang

    home = Path(tilelang.__file__).parent
    file = folder / f"{name}.cu"
    file.write_text(generated.source)
    command = ["nvcc", "-std=c++17", "-O3", "-gencode", f"arch=compute_{ARCHITECTURE[3:]},code={ARCHITECTURE}", "-I",
               str(home / "src"), "-I", str(home / "3rdparty/cutlass/include"), "-cubin", "-Xptxas", "-v", "--keep",
               "--keep-dir", str(folder), str(file), "-o", str(folder / f"{name}.cubin")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc refuses {file}: {done.stderr[-2000:]}")
    ptx = (folder / f"{name}.ptx").read_text()
    return Resources(
        registers=max(map(int, re.findall(r"Used (\d+) registers", done.stderr))),
        spilled=sum(map(int, re.findall(r"(\d+) bytes spill", done.stderr))),
        shared=max([0, *map(int, re.findall(r"(\d+) bytes smem", done.stderr))]) + generated.dynamic_shared,
        wgmma=ptx.count("wgmma.mma_async"),
        async_copies=ptx.count("cp.async.cg"),
    )
