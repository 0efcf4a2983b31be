"""A store of all experts: memory-mapped from the files that a table names, or in memory.

    table: file, offset --one mapping a file, made at its first use--> tensors of acquired experts
    put(tensors): random models, masters of training, copies on a GPU

Pages of mapped files are read when they are used, and can be dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wavefold.experts.mapped import MappedSpan
from wavefold.experts.store import ExpertStore, ExpertView, ExpertWeights, stored_weights
from wavefold.experts.table import ABSENT, FORMS, MATRICES, ExpertTable
from wavefold.ops import native


class ResidentExperts(ExpertStore):
    """All experts of a table. An expert without a file that was not put is on meta: shapes and dtypes only."""

    def __init__(self, table: ExpertTable):
        self.table = table
        self._spans: dict[int, MappedSpan] = {}
        self._weights: dict[tuple[int, int], ExpertWeights] = {}
        """Experts that were put or acquired."""
        self._structs: dict[int, np.ndarray] = {}

    def acquire(self, layer: int, ids: Sequence[int]) -> ExpertView:
        known = self._weights
        return ExpertView(self, layer, {e: known.get((layer, e)) or self._remembered(layer, e) for e in ids})

    def stored(self, layer: int, expert: int) -> ExpertWeights:
        return self._weights.get((layer, expert)) or self._opened(layer, expert)

    def put(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        """Replaces an expert's tensors. A tensor that is no parameter becomes one without a gradient."""
        self._check_open()
        self._weights[layer, expert] = weights.map(_parameter)
        self._structs.pop(layer, None)
        self._replaced(layer, expert, weights)

    @property
    def num_bytes(self) -> int:
        return self._bytes_with(self._weights)

    def structs(self, layer: int) -> np.ndarray:
        """Returns a layer's experts as an array of wf_expert [num_experts], valid until `put` or `close`.

        An expert that is not here has null addresses. Raises ValueError for tensors that are not contiguous on the CPU.
        """
        self._check_open()
        if (structs := self._structs.get(layer)) is None:
            structs = self._structs[layer] = self._filled(layer)
        return structs

    def close(self) -> None:
        """Drops all tensors and mappings. Memory is freed with the last tensor that others hold."""
        self._closed = True
        self._weights.clear()
        self._spans.clear()
        self._structs.clear()
        self.generation += 1

    def open_files(self) -> None:
        """Maps all files of routed experts now, or copies them where the table says so."""
        for file in np.unique(self.table.file[self.table.file != ABSENT]).tolist():
            self._span(file)

    def _remembered(self, layer: int, expert: int) -> ExpertWeights:
        weights = self._weights[layer, expert] = self._opened(layer, expert)
        return weights

    def _opened(self, layer: int, expert: int) -> ExpertWeights:
        """Returns an expert's tensors from their places in the table."""
        self._check_open()
        files, offsets = (array[layer, expert].tolist() for array in (self.table.file, self.table.offset))

        def opened(matrix: int, part: int, dtype: torch.dtype, shape: tuple[int, int]) -> Tensor:
            return self._span(files[matrix][part]).tensor(offsets[matrix][part], dtype, shape)

        return stored_weights(self.table, layer, expert, opened)

    def _span(self, file: int) -> MappedSpan:
        """Returns the mapping of a file, from the first tensor of a routed expert to the last."""
        if (span := self._spans.get(file)) is None:
            begin, end = self.table.span(file)
            span = self._spans[file] = MappedSpan(
                self.table.paths[file], begin, end, self.table.stamps[file], self.table.huge_pages
            )
        return span

    def _filled(self, layer: int) -> np.ndarray:
        structs = np.zeros(self.table.num_experts, native.EXPERT_DTYPE)
        structs["id"] = np.arange(self.table.num_experts)
        self._fill_mapped(structs, layer)
        for expert in range(self.table.num_experts):
            if (weights := self._weights.get((layer, expert))) is not None and weights.is_here:
                struct = native.expert_struct(expert, weights)
                structs[expert] = np.frombuffer(bytes(struct), native.EXPERT_DTYPE)[0]
        return structs

    def _fill_mapped(self, structs: np.ndarray, layer: int) -> None:
        """Fills formats, sizes and addresses from the table, by columns."""
        table = self.table
        bases = np.array([self._span(f).base if f in table.file[layer] else 0 for f in range(len(table.paths))] + [0])
        addresses = np.where(table.file[layer] == ABSENT, 0, bases[table.file[layer]] + table.offset[layer])
        for matrix, name in enumerate(MATRICES):
            rows, columns = table.sizes[matrix]
            form = table.form[layer, :, matrix]
            codes_bytes, scales_bytes = table.bytes_by_form(matrix)
            fields = structs[name]
            fields["form"], fields["rows"], fields["columns"] = form, rows, columns
            fields["codes"], fields["codes_bytes"] = addresses[:, matrix, 0], codes_bytes[form]
            fields["scales"], fields["scales_bytes"] = addresses[:, matrix, 1], scales_bytes[form]


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)


assert tuple(form.name for form in FORMS[: len(native.FORMS)]) == native.FORMS, (
    "the table numbers formats as the library does"
)
