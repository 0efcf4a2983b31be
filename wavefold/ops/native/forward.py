"""A whole pass in one call, for a model whose experts are all in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wavefold.ops.native.block import BlockParameters, ExpertStruct, Spans
from wavefold.ops.native.library import MatrixStruct, check, require, runtime
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
    `embedding` and `head` [vocabulary, hidden], bfloat16 or float32.
    """

    def __init__(
        self, blocks: Sequence[BlockParameters], experts: Sequence[np.ndarray], shared: Sequence[ExpertStruct],
        limit: float, embedding: Tensor, collapse: tuple[Tensor, Tensor, Tensor], norm: Tensor, head: Tensor,
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
        matrices = [matrix_of(Weight.of(tensor)) for tensor in (embedding, fn, head)]
        self.struct = ModelStruct(
            len(blocks), ctypes.addressof(arrays[0]), ctypes.addressof(arrays[1]), ctypes.addressof(every), limit,
            *matrices[:2], base.data_ptr(), scale.data_ptr(), norm.data_ptr(), matrices[2],
        )  # fmt: skip


def forward(model: WholeModel, spans: Spans, tokens: Tensor, wanted: Sequence[int], hidden: Tensor | None) -> Tensor:
    """tokens int64 [n] of all spans -> logits float32 [len(wanted), vocab] of the rows `wanted`.

    `hidden` [n, hidden] bfloat16, unless None, takes the final hidden states of all rows. New entries go to the caches,
    new rows of rings to the places in the spans. Raises ValueError for arguments that do not fit.
    """
    logits = torch.empty(len(wanted), model.vocab_size, dtype=torch.float32)
    rows = (ctypes.c_int64 * len(wanted))(*wanted)
    check(
        require().wf_forward(
            runtime(), ctypes.byref(model.struct), len(spans), spans, tokens.data_ptr(), len(wanted), rows,
            logits.data_ptr(), None if hidden is None else hidden.data_ptr(),
        )
    )  # fmt: skip
    return logits
