"""A whole pass in one call, of a model whose experts are all in memory, or of its MTP module."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavefold.ops.native.block import BlockParameters, ExpertStruct, Spans
from wavefold.ops.native.library import MatrixStruct, check, pointer, require, runtime
from wavefold.ops.native.linear import matrix_of
from wavefold.quant import Weight

_pointer = ctypes.c_void_p


class ModelStruct(ctypes.Structure):
    """wf_model."""

    _fields_ = (
        ("layers", ctypes.c_int64), ("blocks", _pointer), ("experts", _pointer), ("shared", _pointer),
        ("limit", ctypes.c_float), ("embedding", MatrixStruct), ("head_fn", MatrixStruct), ("head_base", _pointer),
        ("head_scale", _pointer), ("norm", _pointer), ("head", MatrixStruct),
    )  # fmt: skip


class WholeModel:
    """A model as the library takes it. It keeps the tensors of its structure alive.

    `experts`: each layer's wf_expert array (`EXPERT_DTYPE`, by number), `shared`: each layer's shared expert;
    `collapse`: fn [J, J hidden], base [J] and scale [1] of the last collapse, float32; `norm` [hidden] bfloat16;
    `embedding` and `head` [vocabulary, hidden], without scales.
    """

    def __init__(
        self, blocks: Sequence[BlockParameters], experts: Sequence[np.ndarray], shared: Sequence[ExpertStruct],
        limit: float, embedding: Weight, collapse: tuple[Tensor, Tensor, Tensor], norm: Tensor, head: Weight,
    ):  # fmt: skip
        fn, base, scale = collapse
        sizes = norm.shape, base.shape, scale.shape
        if sizes != ((head.shape[1],), (len(fn),), (1,)):
            raise ValueError(
                f"norm, base and scale of {[list(size) for size in sizes]} do not fit a head of {head.shape}"
            )
        addresses = [ctypes.addressof(block.struct) for block in blocks], [array.ctypes.data for array in experts]
        arrays = [(_pointer * len(blocks))(*column) for column in addresses]
        every = (ExpertStruct * len(blocks))(*shared)
        self._kept = blocks, list(experts), list(shared), arrays, every, embedding, collapse, norm, head
        self.vocab_size, self.hidden_size = head.shape
        matrices = [matrix_of(weight) for weight in (embedding, Weight.of(fn), head)]
        self.struct = ModelStruct(
            len(blocks), ctypes.addressof(arrays[0]), ctypes.addressof(arrays[1]), ctypes.addressof(every), limit,
            *matrices[:2], base.data_ptr(), scale.data_ptr(), norm.data_ptr(), matrices[2],
        )  # fmt: skip


class MTPStruct(ctypes.Structure):
    """wf_mtp_module."""

    _fields_ = (
        ("model", ModelStruct), ("e_proj", MatrixStruct), ("h_proj", MatrixStruct), ("enorm", _pointer),
        ("hnorm", _pointer),
    )  # fmt: skip


class MTPModule:
    """An MTP module as the library takes it: a model of one layer behind two projections [hidden, hidden].

    `enorm` and `hnorm` [hidden] bfloat16: the norms before `e_proj` and `h_proj`.
    """

    def __init__(self, model: WholeModel, e_proj: Weight, h_proj: Weight, enorm: Tensor, hnorm: Tensor):
        matrices = [matrix_of(weight) for weight in (e_proj, h_proj)]
        self._kept = model, matrices, enorm, hnorm
        self.vocab_size, self.hidden_size = model.vocab_size, model.hidden_size
        self.struct = MTPStruct(model.struct, *matrices, enorm.data_ptr(), hnorm.data_ptr())


class WantedStruct(ctypes.Structure):
    """wf_wanted."""

    _fields_ = (
        ("num_logits", ctypes.c_int64), ("logits_of", _pointer), ("logits", _pointer), ("num_streams", ctypes.c_int64),
        ("streams_of", _pointer), ("streams", _pointer), ("hidden", _pointer),
    )  # fmt: skip


class Wanted(NamedTuple):
    """What a pass is wanted for: logits of the rows `logits_of`, and tensors that take what else is asked for.

    `streams` bfloat16 [len(streams_of), J, hidden], unless None, takes the residual streams after the last layer of the
    rows `streams_of`; `hidden` [n, hidden], unless None, the final hidden states of all rows.
    """

    logits_of: Sequence[int] = ()
    streams_of: Sequence[int] = ()
    streams: Tensor | None = None
    hidden: Tensor | None = None


def _run(call: Callable[[object], int], vocab_size: int, wanted: Wanted) -> Tensor:
    """Returns the logits that `call`, given a wf_wanted, computes."""
    logits = torch.empty(len(wanted.logits_of), vocab_size, dtype=torch.float32)
    rows = [(ctypes.c_int64 * len(numbers))(*numbers) for numbers in (wanted.logits_of, wanted.streams_of)]
    struct = WantedStruct(
        len(rows[0]), ctypes.addressof(rows[0]), logits.data_ptr(), len(rows[1]), ctypes.addressof(rows[1]),
        pointer(wanted.streams), pointer(wanted.hidden),
    )  # fmt: skip
    check(call(ctypes.byref(struct)))
    return logits


def forward(model: WholeModel, spans: Spans, tokens: Tensor, wanted: Wanted) -> Tensor:
    """tokens int64 [n] of all spans -> logits float32 [len(wanted.logits_of), vocab].

    New entries go to the caches, new rows of rings to the places in the spans. Raises ValueError for arguments that do
    not fit.
    """
    first = runtime(), ctypes.byref(model.struct), len(spans), spans, tokens.data_ptr()
    return _run(lambda struct: require().wf_forward(*first, struct), model.vocab_size, wanted)


def mtp(module: MTPModule, spans: Spans, following: Tensor, streams: Tensor, wanted: Wanted) -> Tensor:
    """Streams bfloat16 [n, J, hidden] and the token after each, int64 [n] -> logits of the tokens after those.

    The rest is as in `forward`. Both tensors are contiguous.
    """
    first = runtime(), ctypes.byref(module.struct), len(spans), spans, following.data_ptr(), streams.data_ptr()
    return _run(lambda struct: require().wf_mtp(*first, struct), module.vocab_size, wanted)
