"""A matrix against the same matrix of other layers, and an expert against the layer's other ones, by root mean square.

Trained matrices of one kind have like sizes from layer to layer, and experts of a layer more so: scales that were
doubled, and tensors of another model, stand out. Random models are left out: their scales are drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch

from wavefold.doctor.finding import Finding, failed, listed, passed, skipped
from wavefold.doctor.patient import Patient
from wavefold.doctor.sampling import EXPERT, is_scale, layer_of, sample

ROWS, ROWS_OF_LARGE = 64, 8
NEAREST = 6
"""Layers before and after a layer that it is held against."""
OCTAVES, EXPERT_OCTAVES = 0.6, 0.45
"""Distances from the siblings' median, in powers of two, that are a failure."""
SPREADS = 5.0
"""The distance must also be this many median deviations."""
FEWEST = 4
EXPERTS_OF_LARGE = 24

Sizes = dict[int, float]


def siblings(patient: Patient) -> Iterator[Finding]:
    if not patient.is_trained:
        yield skipped("all layers", "the model is not known to be trained: random tensors have no like siblings",
                      "give --against MODEL")  # fmt: skip
        return
    dense, experts = _sizes(patient)
    outliers: dict[str, list[str]] = defaultdict(list)
    for kind, sizes in dense.items():
        for layer, octaves in _outliers(sizes, OCTAVES).items():
            outliers[f"layers.{layer}"].append(f"{kind} {2**octaves:.2g}x")
    for (layer, matrix), sizes in experts.items():
        for expert, octaves in _outliers(sizes, EXPERT_OCTAVES, near=len(sizes)).items():
            outliers[f"layers.{layer} expert {expert}"].append(f"{matrix} {2**octaves:.2g}x")
    for part, found in outliers.items():
        yield failed(part, f"unlike its siblings in size: {listed(found)}",
                     "scales are wrong, or tensors of another model; --against MODEL says which")  # fmt: skip
    if not outliers:
        yield passed("all layers", f"{len(dense)} kinds of matrices are alike in size from layer to layer")


def _sizes(patient: Patient) -> tuple[dict[str, Sizes], dict[tuple[int, str], Sizes]]:
    """Returns log2 of the root mean square: by kind and layer, and by layer, matrix and expert."""
    refs, large = patient.refs, patient.is_large
    assert refs is not None and patient.config is not None
    dense: dict[str, Sizes] = defaultdict(dict)
    experts: dict[tuple[int, str], Sizes] = defaultdict(dict)
    step = max(1, patient.config.n_routed_experts // EXPERTS_OF_LARGE) if large else 1
    for name, ref in refs.items():
        layer, rest = layer_of(name)
        if not layer.startswith("layers.") or not rest.endswith(".weight") or is_scale(name, refs):
            continue
        found = EXPERT.fullmatch(rest)
        if len(ref.shape) != 2 or (found and int(found[1]) % step):
            continue
        size = sample(refs, name, ROWS_OF_LARGE if large else ROWS).square().mean().sqrt().clamp_min(2.0**-60).log2()
        number = int(layer.split(".")[1])
        if found:
            experts[number, found[2].removesuffix(".weight")][int(found[1])] = float(size)
        else:
            dense[rest.removesuffix(".weight")][number] = float(size)
    for (number, matrix), sizes in experts.items():
        dense[f"experts' {matrix}"][number] = float(torch.tensor(list(sizes.values())).median())
    return dense, experts


def _outliers(sizes: Sizes, octaves: float, near: int = NEAREST) -> Sizes:
    """Returns the distances of those that lie far from the median of their nearest siblings."""
    if len(sizes) < FEWEST:
        return {}
    found = {}
    for number, size in sizes.items():
        others = sorted((other for other in sizes if other != number), key=lambda other: abs(other - number))[:near]
        around = torch.tensor([sizes[other] for other in others])
        distance = size - float(around.median())
        spread = 1.4826 * float((around - around.median()).abs().median())
        if abs(distance) > max(octaves, SPREADS * spread):
            found[number] = distance
    return found
