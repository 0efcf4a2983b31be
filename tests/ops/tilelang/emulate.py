"""Runs the CUDA source that TileLang generates on the CPU: `emulated.h` says what of a GPU there is."""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
POINTER, SCALAR = r"(?:const )?(\w+)\* __restrict__ (\w+)", r"(\w+) (\w+)"


def _cuda_include() -> Path:
    from shutil import which

    return Path(which("nvcc") or "/usr/local/cuda/bin/nvcc").resolve().parent.parent / "include"


def has_headers() -> bool:
    """Whether CUDA's headers are at hand, which say how FP8 and bfloat16 round."""
    return any((folder / "cuda_fp8.h").exists() for folder in (_cuda_include(), Path("/usr/local/cuda/include")))


class Emulated:
    """One kernel, compiled for the CPU."""

    def __init__(self, source: str, folder: Path):
        """Raises RuntimeError where the compiler refuses."""
        head = re.search(r'extern "C" __global__ void [^;{]*?(\w+)_kernel\(([^;{]*)\) \{', source)
        assert head is not None
        self.name = head[1]
        self.parameters = [re.fullmatch(POINTER, p) or re.fullmatch(SCALAR, p) for p in head[2].split(", ")]
        assert all(self.parameters), head[2]
        threads = re.search(r"__launch_bounds__\((\d+)", source)
        assert threads is not None
        self.threads = int(threads[1])
        body = (
            re.sub(r"#include[^\n]*", "", source[: source.index("#if defined(_MSC_VER)")])
            + source[source.index('extern "C"') :]
        )
        body = body.replace("extern __shared__ __align__(1024) uchar buf_dyn_shmem[];",
                            "uchar* buf_dyn_shmem = (uchar*)emulated::dynamic_shared();")  # fmt: skip
        offset = 0

        def static(match: re.Match[str]) -> str:
            nonlocal offset
            at, offset = offset, offset + 16 + int(match[3]) * 8
            offset = -(-offset // 16) * 16
            return f"{match[1]}* {match[2]} = ({match[1]}*)emulated::static_shared({at});"

        body = re.sub(r"__shared__ __align__\(16\) (\w+) (\w+)\[(\d+)\];", static, body)
        arguments = ", ".join(
            f"({m[1]}*)a[{i}]" if "*" in m[0] else f"*({m[1]}*)a[{i}]" for i, m in enumerate(self.parameters) if m
        )
        thunk = f'\nextern "C" void thunk(void** a) {{ {self.name}_kernel({arguments}); }}\n'
        text = '#include "emulated.h"\n' + body + thunk
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]  # a loaded library is known by its name
        file = folder / f"{self.name}_{digest}.cpp"
        file.write_text(text)
        library = file.with_suffix(".so")
        command = ["g++", "-std=c++17", "-O2", "-fno-strict-aliasing", "-w", "-fPIC", "-shared", "-I", str(HERE),
                   "-I", str(_cuda_include()), "-I", "/usr/local/cuda/include", str(file), "-o",
                   str(library)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[:4000])
        self.library = ctypes.CDLL(str(library))
        self.library.wf_emulate.restype = ctypes.c_char_p

    def run(self, grid: tuple[int, int], launches: Sequence[Mapping[str, Tensor | int]], seed: int = 0) -> None:
        """All launches at once, each with its arguments by name. Raises RuntimeError with what went wrong."""

        class Launch(ctypes.Structure):
            _fields_ = [("kernel", ctypes.c_void_p), ("arguments", ctypes.c_void_p), ("x", ctypes.c_int),
                        ("y", ctypes.c_int), ("threads", ctypes.c_int)]  # fmt: skip

        structures, keep = (Launch * len(launches))(), []
        thunk = ctypes.cast(self.library.thunk, ctypes.c_void_p)
        for structure, given in zip(structures, launches, strict=True):
            values = []
            for match in self.parameters:
                assert match is not None
                value = given[match[2]]
                if isinstance(value, Tensor):
                    assert value.is_contiguous(), match[2]
                    values.append(value.data_ptr())
                else:
                    keep.append(ctypes.c_int(value))
                    values.append(ctypes.addressof(keep[-1]))
            array = (ctypes.c_void_p * len(values))(*values)
            keep.append(array)
            structure.kernel, structure.arguments = thunk.value, ctypes.addressof(array)
            structure.x, structure.y, structure.threads = *grid, self.threads
        error = self.library.wf_emulate(ctypes.byref(structures), len(launches), seed)
        if error:
            raise RuntimeError(error.decode())


def bytes_of(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)
