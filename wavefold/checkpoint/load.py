"""A checkpoint folder, or a GGUF file, as a model. Names, shapes and dtypes are checked together."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wavefold.checkpoint import gguf
from wavefold.checkpoint.files import DTYPES, STORAGE, StoredTensors, map_tensors, paused_collections, read_refs
from wavefold.checkpoint.fit import Fit, Kind, Take
from wavefold.checkpoint.index import CONFIG_NAME, TensorRef
from wavefold.checkpoint.room import check_copy, check_load
from wavefold.checkpoint.unneeded import by_kind, described
from wavefold.config import ModelConfig, read_config
from wavefold.experts import ExpertTable, ExpertWeights, routed_expert
from wavefold.experts.mapped import stamp_of
from wavefold.experts.streamed import StreamedExperts
from wavefold.experts.table import ABSENT, FORM_NUMBERS, MATRICES
from wavefold.gguf import is_gguf
from wavefold.model import Transformer
from wavefold.model.official import official_names
from wavefold.model.origin import Origin
from wavefold.model.parameters import Linear
from wavefold.model.transformer import Embedding
from wavefold.ops import DEFAULT_ARITHMETIC, Arithmetic
from wavefold.quant import Weight, format_of
from wavefold.quant.format import STORED_DTYPES
from wavefold.system import Notice


def load(
    path: str | Path,
    arithmetic: str = DEFAULT_ARITHMETIC,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    experts: Container[int] | None = None,
    strict: bool = False,
    huge_pages: bool = False,
    num_slots: int | None = None,
) -> Transformer:
    """The model in `path`, a folder or a GGUF file. On the CPU its weights stay memory-mapped.

    `arithmetic` is "released" (the default; bfloat16) or "exact" (`dtype` float32, its default, or bfloat16).
    `experts`: only these routed experts of each layer are read (None: all). The others stay without storage, and the
    folder may lack them. `huge_pages`: weights are copied into memory of 2 MiB pages rather than mapped. `num_slots`:
    the number of routed experts that are in memory at a time, read from the files as they are needed; dense weights
    are copied.

    Tensors that the text model does not need are left out. An MTP module whose tensors are missing is dropped
    (`model.mtp` is then empty). Unknown keys of config.json are ignored. A Notice names each of these, and `strict`
    refuses them. Raises ValueError that names every missing, unexpected or mis-shaped tensor, and every fault of a file
    or a configuration.
    """
    chosen = Arithmetic(arithmetic, dtype)
    folder = Path(path)
    config, values = read_config(folder)
    notes = []
    if unknown := ModelConfig.unknown_keys(values):
        notes.append(f"keys of {CONFIG_NAME} that nobody knows have no effect: {', '.join(unknown)}")
    if unknown and strict:
        raise ValueError(
            f"{folder / CONFIG_NAME}: {', '.join(unknown)} are not known; expected the family's keys alone"
        )
    model = Transformer(config, chosen)
    try:
        with paused_collections():
            left_out = _open(model, folder, torch.device(device), experts, strict, notes, huge_pages, num_slots)
    except ValueError as error:
        raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    if left_out:
        notes.append(f"left out what the text model does not need: {described(by_kind(left_out, model.config)[0])}")
    notes += _repeated_experts(model)
    for note in notes:
        warnings.warn(f"{folder}: {note}", Notice, stacklevel=2)
    model.origin = Origin(folder.absolute(), values, left_out)
    return model.to(device) if torch.device(device).type != "cpu" else model


def _open(
    model: Transformer, folder: Path, device: torch.device, experts: Container[int] | None, strict: bool,
    notes: list[str], huge_pages: bool, num_slots: int | None,
) -> dict[str, Tensor]:  # fmt: skip
    """Give the model the folder's tensors, and return those that it does not need. Notices are added to `notes`."""
    if num_slots is not None and (huge_pages or device.type != "cpu"):
        setting = "huge_pages = True" if huge_pages else f"device = {device}"
        raise ValueError(f"{setting} is not allowed with routed experts that are streamed; expected cpu, without it")
    stored = read_refs(folder)
    check_load(folder, stored.num_bytes, device)
    if huge_pages:
        routed = ((routed_expert(name), ref.nbytes) for name, ref in stored.refs.items())
        wanted = (size for expert, size in routed if expert is None or experts is None or expert in experts)
        check_copy(folder, sum(wanted), device)
    if any(name.startswith("model.") for name in stored.refs):
        raise ValueError(
            "holds transformers' names (model.layers..., as its save_pretrained writes them), not the official "
            "ones; use the checkpoint that was read from"
        )
    if not strict and model.mtp and (missing := _missing_mtp(model, stored.refs, experts)):
        announced = model.config.num_nextn_predict_layers
        model.drop_mtp()
        notes.append(
            f"runs without MTP: {CONFIG_NAME} says num_nextn_predict_layers = {announced}, "
            f"and {len(missing)} tensors of its modules are not in the files ({missing[0]} first)"
        )
    if stored.not_read:
        names = f"{len(stored.not_read)} tensors of an MTP module or a drafter ({stored.not_read[0]} first)"
        if strict:
            raise ValueError(f"holds {names}; expected the text model's tensors alone")
        notes.append(f"left out what the text model does not need: {names}")
    left = open_stored(model, stored, experts, strict, huge_pages, num_slots)
    if huge_pages:
        model.experts.store.open_files()
    return left


def _repeated_experts(model: Transformer) -> list[str]:
    """A note for each table that gives a token one expert twice, as in models that were never trained."""
    notes = []
    for name, table in model.named_parameters():
        if name.endswith("tid2eid") and table.shape[1] > 1:
            twice = _num_repeating(table)
            if twice:
                notes.append(f"{name} gives {twice} of {len(table)} tokens an expert more than once")
    return notes


def _num_repeating(table: Tensor) -> int:
    """Rows of a table [n, k] that have a value twice."""
    columns = np.ascontiguousarray(table.numpy().T)
    repeats = np.zeros(len(table), bool)
    for one, other in itertools.combinations(columns, 2):
        repeats |= one == other
    return int(repeats.sum())


def _missing_mtp(model: Transformer, names: Container[str], experts: Container[int] | None) -> list[str]:
    """Missing tensors of the model's MTP modules. Among the routed experts only `experts` are needed (None: all)."""
    needed = [name for name in official_names(model, "mtp") if not name.endswith(".scale")]
    routed = ((name, routed_expert(name)) for name in needed)
    needed = [name for name, expert in routed if expert is None or experts is None or expert in experts]
    return [name for name in needed if name not in names]


def open_stored(
    model: Transformer, stored: StoredTensors, experts: Container[int] | None = None, strict: bool = True,
    huge_pages: bool = False, num_slots: int | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """`assign` for tensors in files. The routed experts' tensors are not opened; their places are written down."""
    refs = stored.refs
    fit = Fit(model, kinds_of(refs, is_gguf(stored.paths[0])), experts, strict)
    names = [*(take.name for take in fit.takes if take.name in refs), *fit.left]
    tensors = map_tensors({name: refs[name] for name in names if name is not None}, huge_pages or num_slots is not None)
    _give(model, fit, tensors)
    model.experts.store.table.huge_pages = huge_pages
    _write_down(model.experts.store.table, [block.ffn.layer for block in model.blocks], stored, experts)
    if num_slots is not None:
        model.experts = model.experts.over(StreamedExperts(model.experts.store.table, num_slots))
    return {name: tensors[name] for name in fit.left}


def kinds_of(refs: Mapping[str, TensorRef], is_gguf: bool) -> dict[str, Kind]:
    """The kinds of stored tensors: few objects for many tensors."""
    known: dict[tuple[str, tuple[int, ...]], Kind] = {}
    kinds = {}
    for name, ref in refs.items():
        key = ref.dtype, ref.shape
        if (kind := known.get(key)) is None:
            kind = known[key] = Kind(STORAGE[ref.dtype], ref.shape, gguf.FORMS.get(ref.dtype), is_gguf)
        kinds[name] = kind
    return kinds


def assign(
    model: Transformer, tensors: Mapping[str, Tensor], experts: Container[int] | None = None, strict: bool = True
) -> dict[str, Tensor]:
    """Give the model these tensors, without copying. The dtype of each decides how it is read.

    `experts`: only these routed experts (None: all). Returns the tensors that the text model does not need; `strict`
    refuses them.

    A matrix is FP4 (int8 codes) or FP8 with its scale, or bfloat16 or float32 without. Raises one ValueError for all
    problems; then the model is unchanged.
    """
    kinds = {name: Kind(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    fit = Fit(model, kinds, experts, strict)
    _give(model, fit, tensors)
    store = model.experts.store
    for block in model.blocks:
        names = iter(store.table.names(block.ffn.layer))
        for expert in range(store.table.num_experts):
            pairs = [(next(names), next(names)) for _ in MATRICES]
            if experts is None or expert in experts:
                weights = (Weight.of(_as_codes(tensors[codes]), tensors.get(scales)) for codes, scales in pairs)
                store.put(block.ffn.layer, expert, ExpertWeights(*weights))
    return {name: tensors[name] for name in fit.left}


def _give(model: Transformer, fit: Fit, tensors: Mapping[str, Tensor]) -> None:
    """Give modules the tensors that they take. Raises one ValueError for all problems; then nothing is changed."""
    for name in fit.tables:
        fit.problems.check_table(name, tensors[name], model.config.n_routed_experts)
    fit.problems.raise_if_any()
    for take in fit.takes:
        value = None if take.name is None else _value(take, tensors[take.name])
        take.module.register_parameter(take.parameter, value)


def _value(take: Take, tensor: Tensor) -> nn.Parameter:
    """The parameter of a tensor. Matrices keep their blocks, and the module is told of them.

    A GGUF file holds other parameters in any format, norms as float32. Where the official dtype, bfloat16, holds all of
    their values, they take it again, as the kernels do; else they are float32.
    """
    matrix = isinstance(take.module, Linear | Embedding)
    if matrix and take.parameter == "weight":
        take.module.packed = None if take.kind is None else take.kind.packed  # type: ignore[assignment]
    elif take.kind is not None and take.kind.is_gguf and take.kind.dtype not in (torch.int32, torch.int64):
        values = Weight.of(tensor, None, take.kind.packed).decode(torch.float32)
        official = getattr(take.module, take.parameter).dtype
        narrow = values.to(official)
        tensor = narrow if torch.equal(narrow.float(), values) else values
    return nn.Parameter(
        _as_codes(tensor) if take.kind is None or not take.kind.is_gguf else tensor, requires_grad=False
    )


def _as_codes(tensor: Tensor) -> Tensor:
    """FP4 codes may be called uint8; here they are int8."""
    return tensor.view(torch.int8) if tensor.dtype == torch.uint8 else tensor


def _write_down(
    table: ExpertTable, layers: Sequence[int], stored: StoredTensors, experts: Container[int] | None
) -> None:
    """Write the places and formats of the routed experts in these layers into `table`. `experts` None: all."""
    table.paths = stored.paths
    table.stamps = [stamp_of(path) for path in stored.paths]
    numbers = {id(path): number for number, path in enumerate(stored.paths)}  # by id: to hash a Path is slow
    dtypes = (*STORED_DTYPES, torch.float16)
    forms = {name: FORM_NUMBERS[format_of(dtype).name] for name, dtype in DTYPES.items() if dtype in dtypes}
    forms |= {name: FORM_NUMBERS[form.name] for name, form in gguf.FORMS.items()}
    for layer in layers:
        found = list(map(stored.refs.get, table.names(layer)))
        shape = table.file[layer].shape
        file = np.array([ABSENT if ref is None else numbers[id(ref.path)] for ref in found], np.int16).reshape(shape)
        if experts is not None:
            file[[expert for expert in range(table.num_experts) if expert not in experts]] = ABSENT
        offset = np.array([0 if ref is None else ref.offset for ref in found]).reshape(shape)
        form = [forms.get(ref.dtype, 0) if ref is not None else 0 for ref in found[::2]]
        table.place(layer, file, offset, np.array(form, np.int8).reshape(shape[:-1]))
