"""A checkpoint as a model that is ready to compute: on this device, with these threads, alone or over ranks.

alone       every expert is here; on a GPU kernels compute them where they are asked for
over ranks  this process reads its share of the routed experts and asks the other processes for theirs
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from wavefold import __version__, ops
from wavefold.checkpoint import load
from wavefold.checkpoint.fingerprint import fingerprint
from wavefold.config import ModelConfig
from wavefold.experts.gpu import kernel_experts
from wavefold.experts.ranked import RankedExperts
from wavefold.model import Transformer
from wavefold.ops import DEFAULT_ARITHMETIC
from wavefold.waves.agreement import agreed, num_ranks, of_all
from wavefold.waves.exchange import Settings
from wavefold.waves.group import Group, leave_at_exit
from wavefold.waves.schedule import Waves
from wavefold.waves.transport import TorchTransport
from wavefold.waves.wire import Wire

DEFAULT_WAVES = 8
KERNELS = ("tilelang",)
"""GPU kernels of routed experts."""


@dataclass(frozen=True)
class OverRanks:
    """How the processes that torchrun started share the routed experts; None: as suits the model.

    `waves`: of a rank's experts (8, or fewer). `wire`: the format of an expert's input rows (the arithmetic's).
    `back`: the type that results travel in (the activations').
    """

    waves: int | None = None
    wire: Wire | None = None
    back: Literal["bf16", "fp32"] | None = None


def open_model(
    folder: Path,
    arithmetic: str = DEFAULT_ARITHMETIC,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    strict: bool = False,
    batch_invariant: bool = False,
    over_ranks: OverRanks | None = None,
    kernels: str | None = None,
    threads: int | None = None,
    activations: str = "bf16",
    huge_pages: bool = False,
    num_slots: int | None = None,
) -> Transformer:
    """The model in `folder`. `arithmetic`, `dtype`, `strict`, `huge_pages` and `num_slots` are those of
    `checkpoint.load`; over ranks `num_slots` is of this rank's experts.

    `batch_invariant`: the same bits however tokens arrive. `over_ranks`: all processes that torchrun started run one
    model; they have joined (`agreement.joined`). `kernels`: "tilelang" lets a GPU's kernels compute the routed experts
    (None: plain torch; the kernels have not been timed on a chip). `threads`: of the model's runtime (None: torch's
    number). `activations`: "int8" rounds the input of products with FP4 and FP8 matrices to 8 bits. Raises ValueError
    for a folder or settings that cannot be used.
    """
    place = _usable(device)
    if kernels is not None and (kernels not in KERNELS or place.type != "cuda"):
        raise ValueError(f"kernels = {kernels} is not allowed with device = {device}; expected {KERNELS[0]} on cuda")
    if over_ranks is None:
        model = load(folder, arithmetic, dtype, place, strict=strict, huge_pages=huge_pages, num_slots=num_slots)
    elif place.type != "cpu":
        raise ValueError(f"device = {device} is not allowed over several processes or with waves; expected cpu")
    else:
        model = _load_over_ranks(
            folder, arithmetic, dtype, strict, batch_invariant, over_ranks, activations, huge_pages, num_slots
        )
    model.runtime = ops.current().but(threads=threads, batch_invariant=batch_invariant, activations=activations)
    if batch_invariant and not model.runs_on_kernels:
        raise _needs_kernels("batch_invariant = True holds")
    if activations != "bf16" and not model.runs_on_kernels:
        raise _needs_kernels(f"activations = {activations} is")
    if kernels is not None:
        model.experts = kernel_experts(model.experts, model.config, model.device)
    return model


def _needs_kernels(setting: str) -> ValueError:
    return ValueError(
        f"{setting} for the CPU kernels alone, which compute in bfloat16 and take parameters of the official files' "
        "types and widths; expected activations in bfloat16 on the CPU, such a checkpoint, and an installation with "
        "the kernels"
    )


def _usable(device: str | torch.device) -> torch.device:
    """The device by its name. Raises ValueError for one that torch does not know or this machine lacks."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # torch's for a name it does not know, and for a device it lacks
        raise ValueError(f"device = {device} cannot be used: {str(error).splitlines()[0]}") from None
    return place


def _load_over_ranks(
    folder: Path, arithmetic: str, dtype: torch.dtype | None, strict: bool, batch_invariant: bool,
    over_ranks: OverRanks, activations: str, huge_pages: bool, num_slots: int | None,
) -> Transformer:  # fmt: skip
    """The model with this process's experts and a way to the other ones. Raises ValueError where processes differ."""
    if num_ranks() == 1 and not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        leave_at_exit()
    group = Group()

    def loaded() -> tuple[tuple[Transformer, Settings], dict[str, object]]:
        num_experts = ModelConfig.from_file(folder).n_routed_experts
        most = Waves(num_experts, group.size).most_waves
        waves = Waves(num_experts, group.size, over_ranks.waves or min(DEFAULT_WAVES, most))
        model = load(
            folder, arithmetic, dtype, experts=waves.experts_of(group.rank), strict=strict, huge_pages=huge_pages,
            num_slots=num_slots,
        )  # fmt: skip
        narrow = model.arithmetic.dtype == torch.bfloat16
        wire: Wire = over_ranks.wire or ("fp8" if model.arithmetic.released else "bf16" if narrow else "fp32")
        settings = Settings(waves, wire, over_ranks.back or ("bf16" if narrow else "fp32"))
        values = {} if group.size == 1 else values_of(model, folder, settings, batch_invariant, activations)
        return (model, settings), values

    model, settings = agreed(loaded)
    reads = any(rank["reads"] for rank in of_all({"reads": num_slots is not None}))  # slots may differ by rank
    model.experts = RankedExperts(model.experts, TorchTransport(), settings, same_rows=True, reads=reads)
    return model


def values_of(
    model: Transformer, folder: Path, settings: Settings, batch_invariant: bool, activations: str = "bf16"
) -> dict[str, object]:
    """The values that decide a model's bits. Ranks take each other's routing for granted: all need the same."""
    return {
        **{f"settings.{key}": value for key, value in dataclasses.asdict(settings).items()},
        **bits_of(model, batch_invariant, activations),
        "weights": fingerprint(folder),
    }


def bits_of(model: Transformer, batch_invariant: bool, activations: str) -> dict[str, object]:
    """The values beside the weights that decide a model's bits, with the runtime that is current.

    The number of threads is one of them where torch multiplies: its sums are cut by threads. The CPU kernels' are not.
    """
    kernels = ops.kernels_run(model.arithmetic.dtype, model.device)
    tuning = ops.current().tuning if kernels else None
    return {
        **{f"config.{key}": value for key, value in dataclasses.asdict(model.config).items()},
        "arithmetic": str(model.arithmetic),
        "wavefold version": __version__,
        "torch version": torch.__version__,
        "torch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "kernels' instruction set": ops.current().isa if kernels else "none: torch computes",
        "few_rows and float_rows": str((tuning.few_rows, tuning.float_rows)) if tuning else "none: torch computes",
        "batch_invariant": batch_invariant,
        "activations": activations,
        "threads": "any" if kernels else torch.get_num_threads(),
    }
