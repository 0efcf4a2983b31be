"""The fused kernel on a GPU: compiled once for a shape, launched with its arguments by name."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from wavefold.ops.tilelang.build import PASSES, TARGET, has_compiler
from wavefold.ops.tilelang.shape import Shape

LINK_SHARE = 16
"""One block in this many serves the link."""
_FP8 = {"stage", "act"}
"""Arguments that the kernel reads as e4m3 and that are passed here as bytes."""


def why_not(device: torch.device) -> str | None:
    """Returns the reason why the kernels cannot run on `device`, or None."""
    if device.type != "cuda":
        return f"the GPU kernels need a Hopper GPU; the model is on {device}"
    if (capability := torch.cuda.get_device_capability(device)) != (9, 0):
        return f"the GPU kernels are for Hopper (9.0); {device} has compute capability {capability[0]}.{capability[1]}"
    if importlib.util.find_spec("tilelang") is None:
        return "the GPU kernels need TileLang: pip install 'wavefold[gpu]'"
    return None if has_compiler() else "the GPU kernels need nvcc on the PATH"


@functools.cache
def launcher(shape: Shape, device: torch.device, num_ranks: int = 1) -> Callable[[Mapping[str, Tensor | int]], None]:
    """Returns a launcher of the fused kernel, with one block per multiprocessor, shared by the ranks of the device."""
    import tilelang

    from wavefold.ops.tilelang.kernels import fused

    blocks = torch.cuda.get_device_properties(device).multi_processor_count // num_ranks
    function = fused(shape, num_ranks, max(1, blocks // LINK_SHARE), blocks)
    names = [function.buffer_map[p].name if p in function.buffer_map else p.name for p in function.params]
    kernel = tilelang.compile(function, target=dict(TARGET), pass_configs=dict(PASSES))

    def launch(arguments: Mapping[str, Tensor | int]) -> None:
        with torch.cuda.device(device):
            kernel(*(_as_read(name, arguments[name]) for name in names))

    return launch


def _as_read(name: str, value: Tensor | int) -> Tensor | int:
    if isinstance(value, int):
        return value
    if name in _FP8:
        return value.view(torch.float8_e4m3fn)
    return value.view(torch.uint32) if name.startswith("w") and name.endswith("_scale") else value
