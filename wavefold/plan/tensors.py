"""The tensors of an official checkpoint, by formula: their number, shape, precision and use.

The module tree is the other account of the same thing; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from wavefold.config import Compression, LayerSpec, ModelConfig

FP8_BLOCK = 128
FP4_BLOCK = 32

BYTES = {"fp8": 1.0, "fp4": 0.5, "bf16": 2.0, "fp32": 4.0, "int64": 8.0}


@dataclass(frozen=True)
class TensorKind:
    """`count` tensors of `shape` values in one `precision`; `active` of them are multiplied for a decoded token.

    `part` names the part of the model: attention, compressor, indexer, router, routed, shared, mhc, norm, embedding,
    head or mtp.
    """

    part: str
    shape: tuple[int, ...]
    precision: str
    count: int
    active: int

    @property
    def values(self) -> int:
        return self.count * math.prod(self.shape)

    @property
    def active_values(self) -> int:
        return self.active * math.prod(self.shape)

    @property
    def num_tensors(self) -> int:
        """Tensors on disk. A quantized matrix is two: codes and scales."""
        return self.count * (2 if self.precision in ("fp8", "fp4") else 1)

    @property
    def bytes(self) -> int:
        """Bytes on disk, with scales of one byte each."""
        return int(self.values * BYTES[self.precision]) + self.count * self._scales()

    def _scales(self) -> int:
        if self.precision == "fp8":
            return -(-self.shape[0] // FP8_BLOCK) * -(-self.shape[1] // FP8_BLOCK)
        return self.shape[0] * -(-self.shape[1] // FP4_BLOCK) if self.precision == "fp4" else 0


def num_layers(config: ModelConfig, compression: Compression) -> int:
    """Main layers that attend to entries of this compression. The MTP module's layer is not counted."""
    return sum(spec.part == compression.part for spec in config.main_layers)


def tensor_kinds(config: ModelConfig) -> list[TensorKind]:
    """All tensors of a model. Nothing of the MTP module is active: it is no part of a decoded token's work."""
    kinds = [
        TensorKind("embedding", (config.vocab_size, config.hidden_size), "bf16", 1, 0),
        TensorKind("head", (config.vocab_size, config.hidden_size), "bf16", 1, 1),
        TensorKind("norm", (config.hidden_size,), "bf16", 1, 0),
    ]
    if not config.layers[0].late_pre:
        kinds += _hc_head(config, 1)
    for spec in config.main_layers:
        kinds += _layer(config, spec, 1)
    for spec in config.layers[config.num_hidden_layers :]:
        hidden = config.hidden_size
        block = [*_layer(config, spec, 0), TensorKind("mtp", (hidden, hidden), "fp8", 2, 0), *_hc_head(config, 0)]
        block.append(TensorKind("mtp", (hidden,), "bf16", 3, 0))
        kinds += [TensorKind("mtp", k.shape, k.precision, k.count, 0) for k in block]
    return kinds


def _hc_head(config: ModelConfig, active: int) -> Iterator[TensorKind]:
    yield TensorKind("mhc", (config.hc_mult, config.hc_mult * config.hidden_size), "fp32", 1, active)
    yield TensorKind("mhc", (config.hc_mult,), "fp32", 1, 0)
    yield TensorKind("mhc", (1,), "fp32", 1, 0)


def _layer(config: ModelConfig, spec: LayerSpec, active: int) -> Iterator[TensorKind]:
    hidden = config.hidden_size
    heads_dim = config.num_attention_heads * config.head_dim
    for shape in (
        (config.q_lora_rank, hidden),
        (heads_dim, config.q_lora_rank),
        (config.head_dim, hidden),
        (config.o_groups * config.o_lora_rank, heads_dim // config.o_groups),
        (hidden, config.o_groups * config.o_lora_rank),
    ):
        yield TensorKind("attention", shape, "fp8", 1, active)
    yield TensorKind("attention", (config.num_attention_heads,), "fp32", 1, 0)
    for width in (config.q_lora_rank, config.head_dim, hidden, hidden):
        yield TensorKind("norm", (width,), "bf16", 1, 0)
    if spec.has_compressor:
        yield from _compressor("compressor", config.head_dim, spec, hidden, active)
    if spec.has_keys:
        yield from _compressor("indexer", config.index_head_dim, spec, hidden, active)
    if spec.has_indexer:
        index_dim = config.index_n_heads * config.index_head_dim
        yield TensorKind("indexer", (index_dim, config.q_lora_rank), "fp8", 1, active)
        yield TensorKind("indexer", (config.index_n_heads, hidden), "bf16", 1, active)
    yield TensorKind("router", (config.n_routed_experts, hidden), "bf16", 1, active)
    if spec.hashed:
        yield TensorKind("router", (config.vocab_size, config.num_experts_per_tok), "int64", 1, 0)
    else:
        yield TensorKind("router", (config.n_routed_experts,), "fp32", 1, 0)
    inter, chosen = config.moe_intermediate_size, active * config.num_experts_per_tok
    for shape, times in (((inter, hidden), 2), ((hidden, inter), 1)):
        yield TensorKind("routed", shape, config.expert_dtype, times * config.n_routed_experts, times * chosen)
        yield TensorKind("shared", shape, "fp8", times, times * active)
    streams = config.hc_mult
    rows = 2 * streams + streams * streams
    yield TensorKind("mhc", (rows, streams * hidden), "fp32", 2, 2 * active)
    yield TensorKind("mhc", (rows,), "fp32", 2, 0)
    yield TensorKind("mhc", (3,), "fp32", 2, 0)


def _compressor(part: str, dim: int, spec: LayerSpec, hidden: int, active: int) -> Iterator[TensorKind]:
    width = dim * (2 if spec.overlap else 1)
    yield TensorKind(part, (width, hidden), "bf16", 2, 2 * active)
    yield TensorKind(part, (spec.ratio, width), "fp32", 1, 0)
    yield TensorKind("norm", (dim,), "bf16", 1, 0)
