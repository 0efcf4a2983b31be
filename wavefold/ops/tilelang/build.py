"""From a TileLang kernel to CUDA source, and by nvcc to a cubin: no GPU is needed. What the compiler says of
resources."""

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
"""Rows are gathered and loops are a task list's, which neither tensor maps nor TileLang's own roles serve."""


@dataclass(frozen=True)
class Resources:
    """Of a kernel: registers of a thread, bytes spilled, bytes of shared memory, tensor-core and copy instructions."""

    registers: int
    spilled: int
    shared: int
    wgmma: int
    async_copies: int


@dataclass(frozen=True)
class Generated:
    """CUDA C++ of a kernel, and the bytes of shared memory that its launch asks for."""

    source: str
    dynamic_shared: int


def generate(kernel: Any) -> Generated:
    """A `T.prim_func` of `kernels.py` as CUDA C++."""
    import tilelang
    from tilelang import tvm

    target = tvm.target.Target(TARGET)
    with target, tvm.transform.PassContext(config=PASSES):
        artifact = tilelang.lower(kernel, target=target, enable_host_codegen=False, enable_device_compile=False)
    (function,) = artifact.device_mod.functions.values()
    return Generated(str(artifact.kernel_source), int(function.attrs["dyn_shared_memory_buf"]))


def has_compiler() -> bool:
    """Whether nvcc is at hand."""
    return shutil.which("nvcc") is not None


def compile_cubin(generated: Generated, folder: Path, name: str) -> Resources:
    """Writes folder/name.cu, .ptx and .cubin. Raises RuntimeError with the compiler's words where it refuses."""
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
