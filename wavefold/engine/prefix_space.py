"""Under what a model's blocks and states lie on disk: a digest of all that decides their bytes but the tokens.

weights, configuration, arithmetic, records and rings, kernels, versions -> SHA-256 -> the root of all keys
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from wavefold import ops
from wavefold.cache import CacheLayout, Space
from wavefold.cache.disk import DiskCache
from wavefold.checkpoint.identity import quick_identity
from wavefold.engine.open import bits_of
from wavefold.model import Transformer


def space_of(
    model: Transformer, folder: Path, disk: DiskCache
) -> Callable[[CacheLayout], tuple[bytes, Space]]:  # fmt: skip
    """Returns what makes the root of keys and the space on `disk` for a cache layout of `model`, read from `folder`."""
    weights = quick_identity(folder)

    def of(layout: CacheLayout) -> tuple[bytes, Space]:
        root = digest(model, weights, layout)
        return root, disk.space(
            root, layout.block_bytes, layout.state_bytes, about(model, folder.name, weights, layout)
        )

    return of


def digest(model: Transformer, weights: str, layout: CacheLayout) -> bytes:
    """Returns 32 bytes: other weights, arithmetic, layout, kernels or versions have others.

    A batch-invariant model has a space of its own: its rows do not depend on how tokens arrived, others' do.
    """
    bits = _bits(model)
    values: dict[str, object] = {
        **bits,
        "weights": weights,
        "adapter": "",  # texts through one have another root of this one (`cache.adapter_root`)
        "device": model.device.type,
        "records": [(kind.name, kind.record.form, kind.rows, kind.offset) for kind in layout.row_kinds],
        "block and state bytes": (layout.block_bytes, layout.state_bytes),
        "rings": (layout.draft_tokens, layout.mtp),
    }
    lines = "".join(f"{key} = {values[key]!r}\n" for key in sorted(values))
    return hashlib.sha256(lines.encode()).digest()


def about(model: Transformer, name: str, weights: str, layout: CacheLayout) -> str:
    """Returns in words what tells a space from another one of the same model: for `wavefold cache ls`."""
    bits, runtime = _bits(model), model.runtime or ops.current()
    isa = bits["kernels' instruction set"]
    forms = {kind.record.form for kind in layout.row_kinds if kind.layers}
    packed = forms & {"kv", "index"}
    parts = [
        f"{name} (weights {weights[:8]})",
        str(bits["arithmetic"]),
        "batch-invariant" if runtime.batch_invariant else "",
        f"{runtime.activations} activations" if runtime.activations != "bf16" else "",
        "packed rows" if packed else f"rows in {' and '.join(sorted(forms))}",
        f"rings for {layout.draft_tokens - 1} drafts" if layout.draft_tokens > 1 else "",
        "rings of the MTP module" if layout.mtp else "",
        f"{model.device.type}, {isa}",
        f"wavefold {bits['wavefold version']}, torch {bits['torch version']}",
    ]
    return ", ".join(part for part in parts if part)


def _bits(model: Transformer) -> dict[str, object]:
    runtime = model.runtime or ops.current()
    with runtime.active():
        return bits_of(model, runtime.batch_invariant, runtime.activations)
