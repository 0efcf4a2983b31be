"""Where the tensors of routed experts lie: arrays over layers, experts and matrices, and no object for an expert.

    layers.3.ffn.experts.17.w2.scale  ->  file[3, 17, W2, SCALE], offset[3, 17, W2, SCALE]

Layers are numbered as in the checkpoint: main layers, then MTP layers. A matrix's format determines shapes and dtypes
of its codes and scales, so the table does not hold them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wavefold.config import ModelConfig
from wavefold.experts.mapped import Stamp
from wavefold.quant.format import FORMATS, FP64, Format, format_of

MATRICES = ("w1", "w2", "w3")
"""Gate, down, up."""
PARTS = ("weight", "scale")
ABSENT = -1
"""The file number of a tensor that lies in no file."""

FORMS = (*FORMATS.values(), FP64)
"""Formats by number in `ExpertTable.form`: the CPU kernels' numbers, then float64, which no file holds."""
FORM_NUMBERS = {form.name: number for number, form in enumerate(FORMS)}
"""A format's number by its name."""


def routed_expert(name: str) -> int | None:
    """The expert number in a parameter or module name, or None."""
    found = re.search(r"\.ffn\.experts\.(\d+)\.", name)
    return int(found[1]) if found else None


def number_of(form: Format) -> int:
    """Returns a format's number. Decoded values of another format are of their dtype's format."""
    return FORM_NUMBERS[form.name if form.name in FORM_NUMBERS else format_of(form.dtype).name]


def _bytes_by_form(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    codes = [int(np.prod(form.codes_shape(rows, columns))) * form.dtype.itemsize for form in FORMS]
    scales = [int(np.prod(form.scales_shape(rows, columns) or 0)) for form in FORMS]
    return np.array(codes), np.array(scales)


class ExpertTable:
    """Files, offsets and formats of all routed experts of a model. At first no tensor has a place."""

    def __init__(self, config: ModelConfig):
        inter, hidden = config.moe_intermediate_size, config.hidden_size
        self.num_layers, self.num_experts = config.num_blocks, config.n_routed_experts
        self.num_main_layers = config.num_hidden_layers
        self.official = FORMATS[config.expert_dtype]
        """The format in the configuration."""
        self.sizes = ((inter, hidden), (hidden, inter), (inter, hidden))
        """[out, in] of w1, w2 and w3."""
        self._bytes_by_form = [_bytes_by_form(*size) for size in self.sizes]
        self.paths: list[Path] = []
        self.stamps: list[Stamp] = []
        """The files by number in `file`."""
        self.huge_pages = False
        """True if files are copied into memory of huge pages rather than mapped."""
        shape = self.num_layers, self.num_experts, len(MATRICES)
        self.form = np.full(shape, FORM_NUMBERS[self.official.name], np.int8)
        self.file = np.full((*shape, len(PARTS)), ABSENT, np.int16)
        self.offset = np.zeros((*shape, len(PARTS)), np.int64)

    def prefix(self, layer: int) -> str:
        """Returns the common prefix of a layer's expert names, with its dot."""
        part = f"layers.{layer}" if layer < self.num_main_layers else f"mtp.{layer - self.num_main_layers}"
        return f"{part}.ffn.experts."

    def names(self, layer: int) -> list[str]:
        """Returns all possible names of a layer's tensors, [experts, matrices, parts] flat. Plain ones lack a scale."""
        prefix = self.prefix(layer)
        tails = [f".{matrix}.{part}" for matrix in MATRICES for part in PARTS]
        return [f"{prefix}{expert}{tail}" for expert in range(self.num_experts) for tail in tails]

    def stored_names(self, layer: int) -> Iterator[str]:
        """Returns the names of the tensors of a layer's experts in their formats, in the official order."""
        scaled = np.array([form.block is not None for form in FORMS])[self.form[layer]]
        there = np.stack((np.ones_like(scaled), scaled), -1).ravel().tolist()
        return (name for name, is_there in zip(self.names(layer), there, strict=True) if is_there)

    def place(self, layer: int, file: np.ndarray, offset: np.ndarray, form: np.ndarray) -> None:
        """Records a layer: files and offsets [experts, matrices, parts], formats [experts, matrices].

        A matrix in no file keeps its format.
        """
        self.file[layer], self.offset[layer] = file, offset
        self.form[layer] = np.where(file[..., 0] == ABSENT, self.form[layer], form)

    def format(self, layer: int, expert: int, matrix: int) -> Format:
        return FORMS[self.form[layer, expert, matrix]]

    def bytes_by_form(self, matrix: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the bytes of a matrix's codes, and of its scales, by format number."""
        return self._bytes_by_form[matrix]

    def nbytes(self) -> np.ndarray:
        """Returns the bytes of each tensor by its format: [layers, experts, matrices, parts]."""
        matrices = [np.stack(self.bytes_by_form(matrix), -1)[self.form[:, :, matrix]] for matrix in range(3)]
        return np.stack(matrices, 2)

    def span(self, file: int) -> tuple[int, int]:
        """Returns begin and end, in bytes, of the expert tensors in a file."""
        here = self.file == file
        offsets = self.offset[here]
        return int(offsets.min()), int((offsets + self.nbytes()[here]).max())
