"""The CPU kernels' products against float64, in the file's own forms, with every instruction set that is here."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from wavefold import ops
from wavefold.doctor.finding import Finding, failed, passed, skipped
from wavefold.doctor.patient import Patient
from wavefold.experts.table import MATRICES
from wavefold.model.parameters import Linear
from wavefold.ops import native
from wavefold.quant import FP8_BLOCK, Weight

ROWS = 2 * FP8_BLOCK
INPUTS = (1, 5, 40)
"""Rows of x: alone, a few, enough for tiles."""
MOST_ERROR = 8e-3
"""RMS of the error over RMS of the product. Rounding decoded values to bfloat16, as tiles do, loses 1.7e-3."""


def products(patient: Patient) -> Iterator[Finding]:
    if not native.available():
        yield skipped("kernels", "they are not loaded: plain torch computes", "install a wheel with the kernels")
        return
    weights = _weights(patient)
    for isa in ops.isas():
        worst = 0.0
        for name, weight in weights.items():
            error = max(_error(weight, isa, rows) for rows in INPUTS)
            worst = max(worst, error)
            if not error <= MOST_ERROR:
                yield failed(f"kernels {isa}", f"{weight.format.name} ({name}): off by {error:.1e} of the product, at "
                             f"most {MOST_ERROR:.0e} is rounding", "a fault of this processor, its memory or these "
                             "kernels: run again; then report it")  # fmt: skip
        forms = ", ".join(dict.fromkeys(weight.format.name for weight in weights.values()))
        if worst <= MOST_ERROR:
            yield passed(f"kernels {isa}", f"{forms}: off by at most {worst:.1e}")


def _weights(patient: Patient) -> dict[str, Weight]:
    """Returns the first rows of one matrix of each form and width, outside the experts and of one expert, by name."""
    model = patient.model
    assert model is not None
    found: dict[tuple[str, int], tuple[str, Weight]] = {}

    def take(name: str, weight: Weight) -> None:
        if native.takes(weight):
            found.setdefault((weight.format.name, weight.shape[1]), (name, _first_rows(weight)))

    for name, module in model.named_modules():
        if isinstance(module, Linear) and not name.startswith("mtp."):
            take(name, module.stored)
    with model.experts.store.acquire(0, [0]) as view:
        for name, weight in zip(MATRICES, view[0], strict=True):
            take(f"layers.0.ffn.experts.0.{name}", weight.map(torch.clone))
    return dict(found.values())


def _first_rows(weight: Weight) -> Weight:
    codes, scales = weight.codes[:ROWS].contiguous(), weight.scales
    if scales is not None and weight.format.block is not None:
        scales = scales[: -(-len(codes) // weight.format.block[0])].contiguous()
    return Weight(weight.format, (len(codes), weight.shape[1]), codes, scales)


def _error(weight: Weight, isa: str, num_rows: int) -> float:
    x = torch.randn(num_rows, weight.shape[1], generator=torch.Generator().manual_seed(num_rows)).bfloat16()
    with ops.using(isa=isa):
        y = native.linear(x, weight, torch.float32).double()
    expected = x.double() @ weight.decode(torch.float32).double().T
    return float((y - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp_min(1e-300))
