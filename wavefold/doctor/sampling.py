"""Rows of a stored tensor, decoded by plain torch. The pages of other rows are not read."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from wavefold.checkpoint.files import map_tensors
from wavefold.checkpoint.gguf import FORMS
from wavefold.checkpoint.index import TensorRef
from wavefold.quant import FP8_BLOCK, decode_packed, dequantize

LAYER = re.compile(r"(layers|mtp)\.(\d+)\.(.*)")
EXPERT = re.compile(r"ffn\.experts\.(\d+)\.(.*)")
PARTS = {
    "attn.compressor": "compressor", "attn.indexer": "indexer", "attn": "attention", "ffn.gate": "router",
    "ffn.experts": "experts", "ffn.shared_experts": "shared expert", "hc_": "mHC", "attn_norm": "norms",
    "ffn_norm": "norms",
}  # fmt: skip


def is_scale(name: str, refs: Mapping[str, TensorRef]) -> bool:
    """True for the scales of a matrix."""
    return name.endswith(".scale") and f"{name.removesuffix('.scale')}.weight" in refs


def chosen(num_rows: int, count: int) -> Tensor:
    """Returns at most `count` numbers of rows, evenly spread, the first and the last among them."""
    return torch.linspace(0, num_rows - 1, min(num_rows, count)).round().long().unique()


def sample(refs: Mapping[str, TensorRef], name: str, count: int) -> Tensor:
    """Returns at most `count` rows of a matrix, or all of a vector or a table, as float32."""
    ref = refs[name]
    tensor = map_tensors({name: ref})[name]
    if tensor.dim() != 2:
        return tensor.float()
    rows = chosen(len(tensor), count)
    codes = tensor[rows]
    if (form := FORMS.get(ref.dtype)) is not None:
        return decode_packed(codes, form, torch.float32)
    scale_name = f"{name.removesuffix('weight')}scale"
    if scale_name not in refs or not name.endswith(".weight"):
        return codes.float()
    scales = map_tensors({scale_name: refs[scale_name]})[scale_name]
    if codes.dtype == torch.float8_e4m3fn:
        wide = scales[rows // FP8_BLOCK].float().repeat_interleave(FP8_BLOCK, 1)
        return codes.float() * wide[:, : codes.shape[1]]
    return dequantize(codes.view(torch.int8), scales[rows], torch.float32)


def layer_of(name: str) -> tuple[str, str]:
    """Returns a tensor's layer ("layers.3", "mtp.0", "" outside layers) and the rest of its name."""
    found = LAYER.fullmatch(name)
    return (f"{found[1]}.{found[2]}", found[3]) if found else ("", name)


def part_of(name: str) -> str:
    """Returns the layer and part of a tensor: "layers.3 attention"; an expert's number is in it; else its name."""
    layer, rest = layer_of(name)
    if not layer:
        return name
    if found := EXPERT.fullmatch(rest):
        return f"{layer} expert {found[1]}"
    part = next((word for prefix, word in PARTS.items() if rest.startswith(prefix)), rest)
    return f"{layer} {part}"
