"""NaN, infinity, scales out of range, and tensors that hold one value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch

from wavefold.checkpoint.index import TensorRef
from wavefold.doctor.finding import Finding, failed, listed, passed
from wavefold.doctor.likelihood import measure
from wavefold.doctor.patient import Patient
from wavefold.doctor.sampling import is_scale, layer_of, part_of, sample
from wavefold.experts import routed_expert

ROWS, EXPERT_ROWS, ROWS_OF_LARGE = 256, 64, 8
ZEROS = "zeros alone"
LARGEST = 2.0**12
"""A weight's magnitude at most. Matrices of trained models stay below 2^4, vectors below 2^8."""


def values(patient: Patient) -> Iterator[Finding]:
    refs = patient.refs
    assert refs is not None
    sick: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    constant: dict[str, list[str]] = defaultdict(list)
    kinds: dict[str, int] = defaultdict(int)
    names = [name for name in refs if not is_scale(name, refs)]
    of_numbers = False
    for name in names:
        rows = ROWS_OF_LARGE if patient.is_large else ROWS if routed_expert(name) is None else EXPERT_ROWS
        fault, is_constant = _fault(refs, name, rows)
        kinds[_kind(name)] += 1
        if fault:
            sick[part_of(name)][fault].append(name)
            of_numbers |= fault != ZEROS
        elif is_constant:
            constant[_kind(name)].append(name)
    if of_numbers:
        patient.garbled = "values"
    elif constant and patient.model is not None:
        measure(patient)  # which tells whether the model is trained
    for part, faults in sick.items():
        for fault, found in faults.items():
            yield failed(part, f"{fault} in {listed(found)}", "download or convert the file again")
    dropped = [name for kind, found in constant.items() if patient.is_trained or len(found) < kinds[kind]
               for name in found]  # fmt: skip
    for name in dropped:
        yield failed(part_of(name), f"{name} holds one value alone: it was dropped or never trained",
                     "take the tensor from the official file, or convert it again")  # fmt: skip
    if not sick and not dropped:
        most = f"{ROWS_OF_LARGE}" if patient.is_large else f"{ROWS}, of an expert's {EXPERT_ROWS},"
        yield passed("all layers", f"{len(names):,} tensors: up to {most} rows of each are finite, in range and alive")


def _fault(refs: Mapping[str, TensorRef], name: str, rows: int) -> tuple[str, bool]:
    """Returns what is wrong with a tensor's values ("" for nothing), and True if it holds one value alone."""
    tensor = sample(refs, name, rows)
    if not bool(torch.isfinite(tensor).all()):
        return "NaN or infinity", False
    if name.endswith("tid2eid"):
        return "", False
    low, high = tensor.aminmax()
    if max(-float(low), float(high)) > LARGEST:
        return f"values above {LARGEST:g}", False
    if tensor.dim() == 2 and len(tensor) > 1 and float(low) == float(high) == 0.0:
        return ZEROS, False
    return "", tensor.numel() > 1 and bool(low == high)


def _kind(name: str) -> str:
    """Returns a tensor's name without its layer."""
    return layer_of(name)[1]
