"""The files that are written: GGUF for llama.cpp, or the official layout with FP4 experts.

    tensor                          in GGUF                              officially
    routed experts                  the type that was chosen             fp4; as they were where they are FP4
    other FP8 matrices              q8_0 (`dense`)                       as they were
    bfloat16 and float32 matrices   as they were                         as they were
    norms                           f32                                  as they were
    tables of hashed layers         i32                                  as they were

MTP modules are left out of GGUF files, as llama.cpp's converter does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from wavefold.checkpoint.save import entries_in, values_for
from wavefold.checkpoint.side_files import copy_side_files
from wavefold.checkpoint.write import Entry, write_checkpoint
from wavefold.checkpoint.write_gguf import GgufTensor, Value, gguf_size, write_gguf
from wavefold.config import ModelConfig
from wavefold.experts.table import MATRICES, routed_expert
from wavefold.gguf.table import experts_name, gguf_name
from wavefold.model import Transformer
from wavefold.model.origin import Origin
from wavefold.quant import Weight
from wavefold.quant.encode import TYPES, as_bytes, encode, fp4_of_mxfp4, ggml_type, mxfp4_of_fp4
from wavefold.quantize.importance import Importance
from wavefold.quantize.metadata import model_keys, tokenizer_keys
from wavefold.quantize.mixed import Place
from wavefold.quantize.prune import rerouted
from wavefold.quantize.source import Source, expert_name


class Export:
    """A checkpoint as it will be written."""

    def __init__(
        self, source: Source, types: Mapping[Place, str], importance: Importance | None = None,
        kept: Sequence[list[int]] | None = None, dense: str = "q8_0",
    ):  # fmt: skip
        """`types`: of the routed experts' matrices. `kept`: the experts of each layer that stay (None: all).

        Raises ValueError for types whose blocks do not fill the rows, and where layers keep unlike numbers.
        """
        self.source, self.types, self.importance, self.dense = source, types, importance, dense
        self.kept = source.all_experts if kept is None else list(kept)
        counts = sorted({len(experts) for experts in self.kept})
        if len(counts) != 1:
            raise ValueError(
                f"layers that keep {' and '.join(map(str, counts))} experts are not allowed; expected one number; keep "
                "the same number in each layer"
            )
        self.config = source.config.replace(n_routed_experts=counts[0])
        for (layer, matrix), name in types.items():
            ggml_type(name).row_bytes(source.expert(layer, 0, matrix).shape[1])

    # -- GGUF ------------------------------------------------------------------------------------------------------

    def write_gguf(self, path: Path, on_bytes: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Write the GGUF file `path`, one expert's matrix in memory at a time."""
        tensors = self.gguf_tensors()
        names = list(self.types.values())
        most = max(names, key=names.count)
        write_gguf(path, self._keys(TYPES[most].file_type), tensors, on_bytes)

    def gguf_bytes(self) -> int:
        """Returns the size of the GGUF file."""
        return gguf_size(self._keys(0), self.gguf_tensors())

    def _keys(self, file_type: int) -> dict[str, Value]:
        folder = self.source.folder
        keys = model_keys(self.config, folder.resolve().name, file_type)
        return keys | tokenizer_keys(folder, self.config.vocab_size)

    def gguf_tensors(self) -> dict[str, GgufTensor]:
        """Returns the tensors of the GGUF file by name, layer after layer."""
        tensors = {}
        for name in sorted(self.source.dense_names, key=_layer_of):
            if name.endswith(".ffn.gate.bias") and self.config.layers[_layer_of(name)].hashed:
                continue  # nothing reads it
            written = gguf_name(name)
            if written is None:
                raise ValueError(f"{self.source.folder}: {name} has no name in GGUF files of this architecture")
            tensors[written] = self._dense(name)
        for layer, experts in enumerate(self.kept):
            for matrix in MATRICES:
                shape = (len(experts), *self.source.expert(layer, 0, matrix).shape)
                make = functools.partial(self._experts, layer, matrix)
                tensors[experts_name(layer, matrix)] = GgufTensor(shape, TYPES[self.types[layer, matrix]], make)
        return tensors

    def _experts(self, layer: int, matrix: str) -> Iterator[Tensor]:
        """Yields the bytes of a layer's experts, one after the other."""
        name = self.types[layer, matrix]
        for expert in self.kept[layer]:
            weight = self.source.expert(layer, expert, matrix)
            if weight.format.name == "fp4" and name == "mxfp4":
                assert weight.scales is not None
                yield mxfp4_of_fp4(weight.codes, weight.scales)
            else:
                yield self._encoded(weight, name, (layer, expert, matrix))

    def _encoded(self, weight: Weight, name: str, place: tuple[int, int, str] | None) -> Tensor:
        """Returns the bytes of a matrix in the type `name`, rounded alike for both layouts.

        `place`: layer, expert and matrix in the importance; None for an MTP module, of which it says nothing.
        """
        columns = None if place is None else self._columns(*place)
        moments = None if place is None else self._moments(*place)
        return encode(weight.decode(torch.float32), name, columns, moments).rows

    def _columns(self, layer: int, expert: int, matrix: str) -> Tensor | None:
        return None if self.importance is None else self.importance.columns(layer, expert, matrix)

    def _moments(self, layer: int, expert: int, matrix: str) -> Tensor | None:
        return None if self.importance is None else self.importance.moments(layer, expert, matrix)

    def _dense(self, name: str) -> GgufTensor:
        """Returns a tensor outside the routed experts. float32 and tables are written as they are."""
        tensor = self._kept_rows(name)
        if not tensor.is_floating_point():
            return GgufTensor(tuple(tensor.shape), TYPES["i32"], lambda: [as_bytes(self._kept_rows(name).int())])
        if tensor.dim() < 2 or tensor.dtype == torch.float32:
            return GgufTensor(tuple(tensor.shape), TYPES["f32"], lambda: [_flat_bytes(self._kept_rows(name).float())])
        if tensor.dtype == torch.bfloat16:
            return GgufTensor(tuple(tensor.shape), TYPES["bf16"], lambda: [as_bytes(self._kept_rows(name))])
        weight = self.source.weight(name)

        def make() -> list[Tensor]:
            return [encode(weight.decode(torch.float32), self.dense).rows]

        return GgufTensor(weight.shape, TYPES[self.dense], make)

    def _kept_rows(self, name: str) -> Tensor:
        """Returns a tensor as stored, a router's without the experts that are left out."""
        tensor = self.source.tensor(name)
        part, _, last = name.partition(".ffn.gate.")
        if not last or not part.startswith("layers.") or len(self.kept[0]) == self.source.config.n_routed_experts:
            return tensor
        experts = self.kept[int(part.split(".")[1])]
        if last == "tid2eid":
            return rerouted(tensor, self.source.tensor(f"{part}.ffn.gate.weight"), experts).to(tensor.dtype)
        return tensor[experts]

    # -- the official layout ---------------------------------------------------------------------------------------

    def write_official(self, path: Path, on_shard: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Write a checkpoint folder with FP4 experts, those of MTP too. With fewer experts, MTP is left out.

        Raises ValueError for other types.
        """
        if other := sorted(set(self.types.values()) - {"mxfp4"}):
            raise ValueError(
                f"the official layout has no {', '.join(other)}; expected mxfp4, or a name ending in .gguf"
            )
        pruned = len(self.kept[0]) < self.source.config.n_routed_experts
        names = [name for name in self.source.names if not (pruned and name.startswith("mtp."))]
        entries: dict[str, Entry] = {}
        for name in names:
            if routed_expert(name) is None:
                tensor = self._kept_rows(name)
                entries[name] = Entry(tuple(tensor.shape), tensor.dtype, functools.partial(self._kept_rows, name))
            elif name.startswith("mtp.") and name.endswith(".weight"):
                entries |= self._official_expert(name.removesuffix("weight"), self.source.weight(name), None)
        for layer, experts in enumerate(self.kept):
            for number, expert in enumerate(experts):
                for matrix in MATRICES:
                    weight, dot = self.source.expert(layer, expert, matrix), f"{expert_name(layer, number, matrix)}."
                    entries |= self._official_expert(dot, weight, (layer, expert, matrix))
        config = (self.config.without_mtp() if pruned else self.config).replace(expert_dtype="fp4")
        write_checkpoint(
            path, config, entries, on_shard, lambda folder: copy_side_files(self.source.folder, folder),
            self._official_keys(config, pruned),
        )  # fmt: skip

    def _official_keys(self, config: ModelConfig, pruned: bool) -> dict[str, object]:
        """Returns the keys of config.json: the source's with FP4 experts. A pruned model has those of `config`."""
        model = Transformer(config)
        model.origin = None if pruned else Origin(self.source.folder, self.source.values)
        dtype = self.source.tensor("embed.weight").dtype
        return values_for(model, {"fp4"}, "fp4", is_named=True, dtype=dtype)

    def _official_expert(self, dot: str, weight: Weight, place: tuple[int, int, str] | None) -> dict[str, Entry]:
        """Returns the entries of a routed expert's matrix in FP4. FP4 stays as it is. `dot`: its name and a dot."""

        def make() -> tuple[Tensor, Tensor]:
            if weight.format.name == "fp4":
                assert weight.scales is not None
                return weight.codes, weight.scales.view(torch.float8_e8m0fnu)
            return fp4_of_mxfp4(self._encoded(weight, "mxfp4", place))

        return dict(entries_in("fp4", dot, weight.shape, make))


def _flat_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def _layer_of(name: str) -> int:
    """Returns a main layer's number; -1 for the embedding; a large one for what follows the layers."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" else -1 if parts[0] == "embed" else 1 << 30
