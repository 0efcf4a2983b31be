"""A GGUF file's tensors under the official names, as refs: places in its files, as those of a checkpoint folder are.

    blk.3.ffn_gate_exps.weight, Q4_K [256, 2048, 4096]  ->  layers.3.ffn.experts.0.w1.weight, [2048, 2304 bytes] ...

A routed expert is a slice of its layer's tensor. Shapes are those of codes: rows of blocks are uint8.
"""

from __future__ import annotations

import math
from pathlib import Path

from wavefold.checkpoint.index import TensorRef
from wavefold.gguf import Place, official_name, open_parts
from wavefold.gguf.table import NOT_READ
from wavefold.quant import FORMATS, Format

FORMS: dict[str, Format] = {form.name.upper(): form for form in FORMATS.values() if form.is_packed}
"""GGUF's types that are blocks, by name."""


def gguf_refs(path: Path) -> tuple[dict[str, TensorRef], list[Path], list[str]]:
    """Returns the tensors of a GGUF file and its parts, the files, and names in them that the text model does not need.

    Raises ValueError that names the file and the tensor for one of no known name, for two of one name, and as
    `gguf.open_parts`.
    """
    parts = open_parts(path)
    refs: dict[str, TensorRef] = {}
    left: list[str] = []
    for name, place in parts.tensors.items():
        official = official_name(name)
        if NOT_READ.match(name):
            left.append(name)
            continue
        if official is None:
            raise ValueError(f"{place.path}: tensor {name!r} has a name that this architecture lacks")
        found = _refs(official, place)
        if twice := refs.keys() & found.keys():
            raise ValueError(f"{place.path}: tensor {name!r} is {min(twice)}, which another tensor is too")
        refs |= found
    return refs, list(parts.paths), left


def _refs(official: str, place: Place) -> dict[str, TensorRef]:
    *outer, columns = place.shape
    codes = FORMS[place.type].codes_shape(1, columns)[1] if place.type in FORMS else columns
    if "{}" not in official:
        shape = (math.prod(outer), codes) if len(outer) > 1 else (*outer, codes)
        return {official: TensorRef(place.path, place.offset, place.nbytes, place.type, shape)}
    if len(outer) != 2:
        raise ValueError(f"{place.path}: {official} has shape {list(place.shape)}; expected [experts, out, in]")
    number, rows = outer
    size = place.nbytes // number
    return {
        official.format(expert): TensorRef(place.path, place.offset + expert * size, size, place.type, (rows, codes))
        for expert in range(number)
    }
