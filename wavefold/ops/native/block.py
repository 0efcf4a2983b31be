"""A block of the model for new tokens of some sequences, in three calls: attention, experts, back onto the streams.

The structures are the library's (csrc/wavefold.h); `model/cpu_layers.py` fills them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wavefold.ops.native.library import MatrixStruct, check, pointer, require, runtime
from wavefold.ops.native.linear import matrix_of
from wavefold.ops.native.low_rank import Adapted, AdapterStructs, adapted
from wavefold.ops.native.rows import RowsStruct
from wavefold.quant import Weight

Weights = tuple[Weight, Weight, Weight]
"""An expert: w1 gate, w2 down, w3 up."""

_int32, _int64, _float, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class MixerStruct(ctypes.Structure):
    """wf_mixer."""

    _fields_ = (("fn", MatrixStruct), ("base", _pointer), ("scale", _pointer), ("norm", _pointer))


class CompressorStruct(ctypes.Structure):
    """wf_compressor."""

    _fields_ = (
        ("dim", _int64), ("wkv", MatrixStruct), ("wgate", MatrixStruct), ("ape", _pointer), ("norm", _pointer),
    )  # fmt: skip


class BlockStruct(ctypes.Structure):
    """wf_block."""

    _fields_ = (
        ("released", _int32), ("hidden", _int64), ("streams", _int64), ("iters", _int32), ("hc_eps", _float),
        ("norm_eps", _float), ("attention", MixerStruct), ("experts", MixerStruct),
        ("heads", _int64), ("head_dim", _int64), ("rope_dim", _int64), ("groups", _int64), ("window", _int64),
        ("ratio", _int64), ("overlap", _int64), ("sink", _pointer), ("frequencies", _pointer),
        ("wq_a", MatrixStruct), ("wq_b", MatrixStruct), ("wkv", MatrixStruct), ("wo_a", MatrixStruct),
        ("wo_b", MatrixStruct), ("q_norm", _pointer), ("kv_norm", _pointer), ("entries", CompressorStruct),
        ("index_heads", _int64), ("index_topk", _int64), ("keys", CompressorStruct), ("index_wq_b", MatrixStruct),
        ("index_weights", MatrixStruct), ("num_experts", _int64), ("topk", _int64), ("gate", MatrixStruct),
        ("gate_bias", _pointer), ("gate_table", _pointer), ("vocabulary", _int64), ("route_scale", _float),
    )  # fmt: skip


class ViewStruct(ctypes.Structure):
    """wf_view: a sequence's cache in one layer."""

    _fields_ = (
        ("window", RowsStruct), ("entries", RowsStruct), ("keys", RowsStruct), ("tail", _pointer),
        ("key_tail", _pointer), ("tail_rows", _int64), ("key_tail_rows", _int64),
    )  # fmt: skip


class StagedStruct(ctypes.Structure):
    """wf_staged: addresses of a layer's new rows until the pass is committed."""

    _fields_ = (("window", _pointer), ("tail", _pointer), ("key_tail", _pointer))


class SpanStruct(ctypes.Structure):
    """wf_span: a sequence's new tokens, and its cache by layer.

    `views`, `staged` and `marked` are addresses of arrays. `kept` keeps these arrays alive.
    """

    kept: tuple[object, ...]

    _fields_ = (
        ("position", _int64), ("tokens", _int64), ("views", _pointer), ("staged", _pointer), ("marked", _pointer),
        ("mark", _int64), ("adapter", _pointer),
    )  # fmt: skip


Spans = ctypes.Array[SpanStruct]
Views = ctypes.Array[ViewStruct]
Staged = ctypes.Array[StagedStruct]


def views(layers: Sequence[ViewStruct]) -> Views:
    """Returns a sequence's cache by layer. The caller keeps it, and the rows it points to, alive during calls."""
    return (ViewStruct * len(layers))(*layers)


def staged(addresses: np.ndarray) -> Staged:
    """Returns the staged rows' places: int64 [layers, 3], addresses of window, tail and key tail. Kept as `views`."""
    return (StagedStruct * len(addresses)).from_buffer(addresses)  # type: ignore[arg-type]


def span(
    position: int, tokens: int, views: Views, staged: Staged | None, marked: Staged | None = None, mark: int = 0,
    adapter: AdapterStructs | None = None,
) -> SpanStruct:  # fmt: skip
    """Returns a sequence's span: `tokens` new tokens from `position` on. Without `staged`, rows go into the rings.

    `marked` takes the last rows of the first `mark` tokens. `adapter`: by layer; None: the model alone.
    """
    arrays = views, staged, marked, adapter
    *places, last = (array if array is None else ctypes.addressof(array) for array in arrays)
    struct = SpanStruct(position, tokens, *places, mark, last)
    struct.kept = arrays
    return struct


def spans(spans: Sequence[SpanStruct]) -> Spans:
    """Returns the spans of a pass as an array. It keeps their arrays alive."""
    array = (SpanStruct * len(spans))(*spans)
    array.kept = [span.kept for span in spans]  # type: ignore[attr-defined]
    return array


class ExpertStruct(ctypes.Structure):
    """wf_expert."""

    _fields_ = (("id", _int64), ("w1", MatrixStruct), ("w2", MatrixStruct), ("w3", MatrixStruct))


EXPERT_DTYPE = np.dtype(ExpertStruct)
"""wf_expert as numpy lays it out: an array of them is a layer's experts."""


class RangeStruct(ctypes.Structure):
    """wf_range."""

    _fields_ = (("at", _pointer), ("bytes", _int64))


Ranges = ctypes.Array[RangeStruct]


def ranges(tensors: Sequence[Tensor]) -> Ranges:
    """Returns the places of contiguous tensors: a prefetch hint for the tensors that the next call reads first."""
    return (RangeStruct * len(tensors))(*[RangeStruct(tensor.data_ptr(), tensor.nbytes) for tensor in tensors])


class BlockParameters:
    """A layer's parameters as the library takes them: fields of wf_block by name. It keeps their tensors alive.

    A field is a number, a tensor (its address is passed), a matrix, or a dict for a nested structure.
    """

    def __init__(self, fields: dict[str, object]):
        self._kept: list[object] = []
        self.struct = BlockStruct()
        self._fill(self.struct, fields)

    def _fill(self, struct: ctypes.Structure, fields: dict[str, object]) -> None:
        for name, value in fields.items():
            if isinstance(value, dict):
                self._fill(getattr(struct, name), value)
            elif isinstance(value, Weight):
                matrix = matrix_of(value)
                self._kept.append(matrix.kept)
                setattr(struct, name, matrix)
            elif isinstance(value, Tensor):
                if not value.is_contiguous() or value.device.type != "cpu":
                    raise ValueError(f"{name} on {value.device}; the CPU kernels take contiguous tensors on the CPU")
                self._kept.append(value)
                setattr(struct, name, value.data_ptr())
            else:
                setattr(struct, name, value)


class PassBuffers:
    """Buffers between the calls of a pass, reused by all layers, for tokens int64 [n].

    Each layer changes `streams` bfloat16 [n, J, hidden].
    """

    def __init__(self, tokens: Tensor, streams: Tensor, topk: int):
        n, num_streams, hidden = streams.shape
        self.tokens, self.streams = tokens.contiguous(), streams.contiguous()
        self.h = torch.empty(n, hidden, dtype=torch.bfloat16)
        self.post = torch.empty(n, num_streams, dtype=torch.float32)
        self.comb = torch.empty(n, num_streams, num_streams, dtype=torch.float32)
        self.route = torch.empty(n, topk, dtype=torch.float32)
        self.chosen = torch.empty(n, topk, dtype=torch.int64)
        self.mixed = torch.empty_like(self.streams)
        self.output = torch.empty(n, hidden, dtype=torch.bfloat16)
        self.adapted: Adapted = adapted([], 0)
        """The rows that have adapters, in the layer at hand."""

        def addresses(*tensors: Tensor) -> tuple[int, ...]:
            return tuple(tensor.data_ptr() for tensor in tensors)

        # addresses are read once: calls of torch would be most of a step's time outside the kernels
        self._chosen = (_int64 * (n * topk)).from_address(self.chosen.data_ptr())
        self.sizes = n, num_streams, hidden, topk
        self.of_attention = addresses(
            self.tokens, self.streams, self.mixed, self.h, self.post, self.comb, self.route, self.chosen
        )
        self.of_experts = addresses(self.h, self.chosen, self.route, self.output)
        self.of_leave = addresses(self.output, self.mixed, self.post, self.comb, self.streams)

    def distinct_experts(self) -> list[int]:
        """Returns the distinct experts in `chosen`, ascending."""
        return sorted(set(self._chosen))


def block_attention(
    block: BlockParameters, layer: int, spans: Spans, buffers: PassBuffers, after: Ranges
) -> None:  # fmt: skip
    """buffers.streams -> buffers.mixed, the streams after attention; h, post, comb, route and chosen for the experts.
    New entries go to the caches. `after`: prefetch hint for the next call. Raises ValueError where sizes do not fit."""
    arguments = ctypes.byref(block.struct), layer, len(spans), spans, *buffers.of_attention, after, len(after)
    check(require().wf_block_attention(runtime(), *arguments))


def expert_struct(expert: int, weights: Weights) -> ExpertStruct:
    """Returns an expert as the library takes it. The caller keeps the tensors alive. `expert` -1: for every token."""
    (f1, shape, c1, s1), (f2, _, c2, s2), (f3, _, c3, s3) = weights
    # written out, with `map`: it runs for every expert of every token
    tensors = [tensor for tensor in (c1, s1, c2, s2, c3, s3) if tensor is not None]
    key = expert, shape, f1.name, f2.name, f3.name, *map(Tensor.data_ptr, tensors)
    if (struct := _structs.get(key)) is None:
        if len(_structs) >= MOST_STRUCTS:
            _structs.clear()
        struct = _structs[key] = ExpertStruct(expert)
        struct.w1, struct.w2, struct.w3 = map(matrix_of, weights)
    return struct


MOST_STRUCTS = 1 << 15
_structs: dict[object, ExpertStruct] = {}
"""Structures by their content: addresses, shapes and formats. The values at the addresses may change."""


def experts(
    chosen: Sequence[ExpertStruct], limit: float, released: bool, buffers: PassBuffers, after: Ranges,
    sum: Tensor | None = None, is_last: bool = True,
) -> None:  # fmt: skip
    """buffers.h -> buffers.output: the sum over `chosen` experts, for their tokens by buffers.chosen and buffers.route.

    The sum is float32, in the order of `chosen`. Several calls with the same `sum`, float32 [n, hidden] that begins as
    zeros, have the bits of one call; the last one gives buffers.output. `after`: prefetch hint for the next call.
    """
    array = (ExpertStruct * len(chosen))(*chosen)
    n, _, hidden, topk = buffers.sizes
    h, ids, route, output = buffers.of_experts
    outputs = pointer(sum), output if is_last else None
    first = runtime(), n, hidden, h, topk, ids, route, array, len(chosen), limit, released
    rows = buffers.adapted
    check(require().wf_experts(*first, *outputs, after, len(after), rows, len(rows)))


def leave(buffers: PassBuffers) -> None:
    """Adds buffers.output to the streams in buffers.mixed (hc_expand). The result is buffers.streams."""
    output, mixed, post, comb, streams = buffers.of_leave
    n, num_streams, hidden, _ = buffers.sizes
    check(require().wf_hc_expand(runtime(), output, mixed, post, comb, n, num_streams, hidden, streams))
