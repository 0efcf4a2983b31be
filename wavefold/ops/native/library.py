"""The shared library: its place, its exports, and handles of its threads. No other file loads a library.

A wheel has it beside this file, an editable install in site-packages. WAVEFOLD_NATIVE=0 disables it; a path in
WAVEFOLD_NATIVE names another build, for example with sanitizers.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ABI = 18
"""The WF_ABI of csrc/wavefold.h that this file is written for."""

NAME = {"Darwin": "libwavefold_kernels.dylib"}.get(platform.system(), "libwavefold_kernels.so")

ERRORS = {
    1: "a pointer is null",
    2: "a size is not positive or too large",
    3: "a buffer has another size than its shape needs",
    4: "there is no such form",
    5: "that many threads cannot be had",
    6: "no memory for scratch",
    7: "an instruction set that is unknown, or that this processor lacks",
    8: "a value of the tuning is out of range",
}


class MatrixStruct(ctypes.Structure):
    """wf_matrix. `kept` keeps the tensors of its addresses alive."""

    kept: tuple[torch.Tensor, torch.Tensor | None]

    _fields_ = (
        ("form", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("codes", ctypes.c_void_p),
        ("codes_bytes", ctypes.c_int64),
        ("scales", ctypes.c_void_p),
        ("scales_bytes", ctypes.c_int64),
    )


class TuningStruct(ctypes.Structure):
    """wf_tuning."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("hint", "ahead", "few_rows", "float_rows", "plain_hint"))


_int32, _int64, _pointer, _matrix = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(MatrixStruct)
_two = [_int64, _int64]
SIGNATURES: dict[str, list[Any]] = {
    "wf_runtime_create": [_int32, ctypes.c_char_p, _int32, _int32, _pointer, ctypes.POINTER(_pointer)],
    "wf_usual_tuning": [ctypes.c_char_p, _pointer],
    "wf_runtime_release": [_pointer],
    "wf_runtime_inside_ns": [_pointer],
    "wf_order_processors": [ctypes.c_char_p, ctypes.POINTER(_int32), _int32],
    "wf_linear": [_pointer, _matrix, _pointer, _int64, _int32, _pointer, _int32],
    "wf_fp8_sim": [_pointer, _pointer, _int64, _int64, _int64, _pointer],
    "wf_decode": [_pointer, _matrix, _int64, _int64, _pointer, _int64],
    "wf_hc_split": [*[_pointer] * 4, _int64, _int32, _int32, ctypes.c_float, *[_pointer] * 3],
    "wf_hc_collapse": [*[_pointer] * 3, _int64, _int32, _int64, _pointer],
    "wf_hc_expand": [*[_pointer] * 5, _int64, _int32, _int64, _pointer],
    "wf_hc_head": [
        *[_pointer, _matrix],
        *[_pointer] * 3,
        _int64,
        _int32,
        _int64,
        ctypes.c_float,
        ctypes.c_float,
        _pointer,
    ],
    "wf_rms_norm": [*[_pointer] * 3, *_two, ctypes.c_float, _pointer],
    "wf_attend": [_pointer, *_two, *[_pointer] * 2, *_two, *[_pointer] * 3, _int64, _pointer, _int64, _pointer],
    "wf_index": [_pointer, *_two, *[_pointer] * 3, *_two, _int64, _int32, _pointer],
    "wf_block_attention": [_pointer, _pointer, *_two, *[_pointer] * 10, _int64],
    "wf_experts": [
        *[_pointer, *_two, _pointer, _int64],
        *[_pointer] * 3,
        *[_int64, ctypes.c_float, _int32],
        *[_pointer] * 3,
        _int64,
        _pointer,
        _int64,
    ],
    "wf_forward": [_pointer, _pointer, _int64, *[_pointer] * 3],
    "wf_mtp": [_pointer, _pointer, _int64, *[_pointer] * 4],
    "wf_choose": [_pointer, _pointer, *_two, _pointer, _int64, _pointer],
    "wf_hc_read": [*[_pointer] * 3, _int64, *[_pointer] * 4],
    "wf_hc_read_grad": [*[_pointer] * 3, _int64, *[_pointer] * 9],
    "wf_norm": [*[_pointer] * 3, *_two, ctypes.c_float, *[_pointer] * 2],
    "wf_norm_grad": [*[_pointer] * 3, *_two, ctypes.c_float, *[_pointer] * 4],
    "wf_rotate": [*[_pointer] * 2, *_two, *[_pointer] * 2],
    "wf_swiglu": [*[_pointer] * 4, *_two, ctypes.c_float, _pointer],
    "wf_swiglu_grad": [*[_pointer] * 5, *_two, ctypes.c_float, *[_pointer] * 3],
    "wf_compress": [*[_pointer] * 3],
    "wf_compress_grad": [*[_pointer] * 6],
    "wf_combine_rows": [*[_pointer] * 2, _int64, _pointer, *[_int64] * 3, *[_pointer] * 2],
    "wf_multiply": [*[_pointer] * 2, _int64],
    "wf_orthogonalize": [*[_pointer] * 2, _int64, _pointer, _int64, ctypes.c_float],
    "wf_hadamard": [*[_pointer] * 2, *_two, _int32, _pointer],
    "wf_round_weights": [*[_pointer] * 2, _int64],
    "wf_cross_entropy": [*[_pointer] * 3, *_two, _pointer],
    "wf_index_loss": [*[_pointer] * 5, *[_int64] * 5, _int32, *[_pointer] * 3],
    "wf_joint_attention": [*[_pointer] * 5],
    "wf_joint_attention_grad": [*[_pointer] * 8],
    "wf_hc_return": [*[_pointer] * 5, _int64, _int32, _int64, _pointer],
    "wf_hc_return_grad": [*[_pointer] * 6, _int64, _int32, _int64, *[_pointer] * 4],
}
"""Argument types of the interface's functions."""


def candidates() -> list[Path]:
    """Returns the paths where the library may be, the likeliest first."""
    if named := os.environ.get("WAVEFOLD_NATIVE"):
        return [Path(named)]
    places = [Path(__file__).with_name(NAME)]
    try:
        installed = importlib.metadata.distribution("wavefold").locate_file(f"wavefold/ops/native/{NAME}")
    except importlib.metadata.PackageNotFoundError:
        return places
    return [*places, Path(str(installed))]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the loaded library, or None where there is none or WAVEFOLD_NATIVE is 0.

    Raises OSError for a library of another ABI, and where WAVEFOLD_NATIVE names an absent file.
    """
    if os.environ.get("WAVEFOLD_NATIVE") == "0":
        return None
    path = next((path for path in candidates() if path.is_file()), None)
    if path is None:
        if named := os.environ.get("WAVEFOLD_NATIVE"):
            raise OSError(f"WAVEFOLD_NATIVE = {named}: no such file; expected 0, or a built {NAME}")
        return None
    loaded = ctypes.CDLL(str(path))
    if (abi := loaded.wf_abi()) != ABI:
        raise OSError(f"{path}: speaks version {abi} of the kernels' interface, expected {ABI}; install wavefold again")
    loaded.wf_isas.restype = ctypes.c_char_p
    for name, arguments in SIGNATURES.items():
        getattr(loaded, name).argtypes = arguments
    loaded.wf_runtime_release.restype = None
    loaded.wf_runtime_inside_ns.restype = _int64
    return loaded


def available() -> bool:
    """True if the kernels can be called."""
    return library() is not None


def require() -> ctypes.CDLL:
    """Returns the library. Raises RuntimeError where there is none."""
    if (loaded := library()) is None:
        raise RuntimeError(
            "the CPU kernels were not built; install wavefold again, with a C++ compiler or from a wheel"
        )
    return loaded


def check(error: int) -> None:
    """Raises ValueError for an error code of the library."""
    if error:
        raise ValueError(f"the CPU kernels refused a call: {ERRORS.get(error, f'error {error}')}")


def bf16(x: Tensor) -> Tensor:
    """Returns x, contiguous. Raises ValueError unless it is bfloat16 on the CPU."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        raise ValueError(f"activations of {x.dtype} on {x.device}; the CPU kernels take bfloat16 on the CPU")
    return x.contiguous()


def floats(x: Tensor) -> Tensor:
    """Returns x in float32, contiguous, on the CPU, without its gradient."""
    if x.dtype == torch.float32 and x.is_cpu and x.is_contiguous() and not x.requires_grad:
        return x  # the common case: the general one takes three calls of torch
    return x.detach().to(device="cpu", dtype=torch.float32).contiguous()


def pointer(x: Tensor | None) -> int | None:
    """Returns the address of its values, or None (null) for None."""
    return None if x is None else x.data_ptr()


def isas() -> list[str]:
    """Returns the instruction sets that are compiled in and that this processor has, best first."""
    return require().wf_isas().decode().split()


def by_core(processors: Sequence[int], folder: Path | None = None) -> tuple[list[int], int]:
    """Returns `processors` with one of each physical core first, and the number of cores.

    `folder` holds cpuN/topology/thread_siblings_list (None: the machine's). A processor without it is a whole core.
    """
    order = (_int32 * len(processors))(*processors)
    cores = require().wf_order_processors(None if folder is None else os.fsencode(folder), order, len(order))
    return list(order), cores


def usual_tuning(isa: str | None) -> tuple[int, ...]:
    """Returns the fields of wf_tuning for an instruction set (None: the best) where nobody has measured."""
    tuning = TuningStruct()
    check(require().wf_usual_tuning(None if isa is None else isa.encode(), ctypes.byref(tuning)))
    return tuple(getattr(tuning, field[0]) for field in TuningStruct._fields_)


class Handle:
    """A runtime of the library: `threads` threads, the kernels of `isa`. It is the first argument of calls.

    `int8`: products with FP4 and FP8 matrices round their input to int8.

    Calls take this object and not its address. ctypes keeps the arguments alive until the call returns: a handle that
    another Python thread drops meanwhile is released only then. `tuning` has the fields of wf_tuning. Raises ValueError
    for more threads than can be started, for an unknown instruction set, and for a tuning out of range.
    """

    def __init__(self, threads: int, isa: str | None, batch_invariant: bool, int8: bool, tuning: tuple[int, ...]):
        self.threads = threads
        self._address = ctypes.c_void_p()
        self._process = _process
        name = None if isa is None else isa.encode()
        chosen, address = ctypes.byref(TuningStruct(*tuning)), ctypes.byref(self._address)
        check(require().wf_runtime_create(threads, name, batch_invariant, int8, chosen, address))

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        """The value that ctypes passes for it."""
        return self._address

    @property
    def is_usable(self) -> bool:
        """True in the process that made it. A forked child has its memory and none of its threads."""
        return self._process is _process

    def serves(self, threads: int) -> bool:
        """True if it has so many threads, in this process."""
        return self.threads == threads and self.is_usable

    @property
    def inside_ns(self) -> int:
        """Nanoseconds that calls have spent inside."""
        return int(require().wf_runtime_inside_ns(self._address))

    def __del__(self) -> None:
        if self._address and self.is_usable and (loaded := library()) is not None:
            loaded.wf_runtime_release(self._address)


_process = object()
_current: Callable[[], Handle] | None = None


def runtime() -> Handle:
    """Returns the handle of the runtime that this thread's calls use (ops/runtime.py)."""
    assert _current is not None, "ops/runtime.py says which"
    return _current()


def use_runtime_of(current: Callable[[], Handle]) -> None:
    """Makes `runtime` return the handles of `current`."""
    global _current
    _current = current


def _after_fork() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
