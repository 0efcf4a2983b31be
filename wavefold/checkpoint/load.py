"""A checkpoint folder as a model. Names, shapes and dtypes are checked together and reported in one error."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wavefold import quant
from wavefold.checkpoint.files import read_tensors, stored_bytes
from wavefold.checkpoint.index import CONFIG_NAME
from wavefold.checkpoint.room import check_load
from wavefold.checkpoint.unneeded import by_kind, described
from wavefold.config import ModelConfig, read_config
from wavefold.model import Transformer
from wavefold.model.expert_store import routed_expert
from wavefold.model.origin import Origin
from wavefold.model.parameters import Linear, stored_shapes
from wavefold.ops import DEFAULT_ARITHMETIC, Arithmetic
from wavefold.system import Notice

MAX_LISTED = 8
FLOATS = (torch.bfloat16, torch.float32)


def load(
    path: str | Path,
    arithmetic: str = DEFAULT_ARITHMETIC,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    experts: Container[int] | None = None,
    strict: bool = False,
) -> Transformer:
    """The model in the folder `path`. On the CPU its weights stay memory-mapped.

    `arithmetic` is "released" (the default; bfloat16) or "exact" (`dtype` float32, its default, or bfloat16).
    `experts`: of each layer's routed experts only these are read; the others, which the folder may lack, stay without
    storage. Tensors that the text model does not need are left out, an MTP module whose tensors are missing is dropped
    (`model.mtp` is then empty), and keys of config.json that nobody knows are passed over: a Notice names each, and
    `strict` refuses them. Raises ValueError that names every missing, unexpected or mis-shaped tensor, and what is
    wrong with a file or a configuration.
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
        check_load(folder, stored_bytes(folder), torch.device(device))
        tensors = read_tensors(folder)
        if any(name.startswith("model.") for name in tensors):
            raise ValueError(
                "holds transformers' names (model.layers..., as its save_pretrained writes them), not the official "
                "ones; use the checkpoint that was read from"
            )
        if not strict and (missing := _missing_mtp(model, tensors, experts)):
            model.drop_mtp()
            notes.append(
                f"runs without MTP: {CONFIG_NAME} says num_nextn_predict_layers = {config.num_nextn_predict_layers}, "
                f"and {len(missing)} tensors of its modules are not in the files ({missing[0]} first)"
            )
        left_out = assign(model, tensors, experts, strict)
    except ValueError as error:
        raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    if left_out:
        notes.append(f"left out what the text model does not need: {described(by_kind(left_out, model.config)[0])}")
    notes += _repeated_experts(model)
    for note in notes:
        warnings.warn(f"{folder}: {note}", Notice, stacklevel=2)
    model.origin = Origin(folder.absolute(), values, left_out)
    return model.to(device) if torch.device(device).type != "cpu" else model


def _repeated_experts(model: Transformer) -> list[str]:
    """What to tell of tables that give a token one expert twice, as those of models do that were never trained."""
    notes = []
    for name, table in model.named_parameters():
        if name.endswith("tid2eid") and table.shape[1] > 1:
            twice = int((table.sort(1).values.diff(dim=1) == 0).any(1).sum())
            if twice:
                notes.append(f"{name} gives {twice} of {len(table)} tokens an expert more than once")
    return notes


def _missing_mtp(model: Transformer, tensors: Mapping[str, Tensor], experts: Container[int] | None) -> list[str]:
    """The tensors that the model's MTP modules need, of the routed experts those in `experts`, and that are missing."""
    names = [f"mtp.{name}" for name, _ in model.mtp.named_parameters() if not name.endswith(".scale")]
    routed = ((name, routed_expert(name)) for name in names)
    needed = [name for name, expert in routed if expert is None or experts is None or expert in experts]
    return [name for name in needed if name not in tensors]


def assign(
    model: Transformer, tensors: Mapping[str, Tensor], experts: Container[int] | None = None, strict: bool = True
) -> dict[str, Tensor]:
    """Give the model's parameters these tensors, without copying. The dtype of each decides how it is read.

    `experts`: of the routed experts only these. Returns the tensors that the text model does not need, which `strict`
    refuses.

    A matrix is FP4 (int8 codes) or FP8 with its scale, or bfloat16 or float32 without. Raises one ValueError for all
    that does not fit; then the model is unchanged.
    """
    problems = _Problems()
    left = dict(tensors)
    plan: list[tuple[nn.Module, str, Tensor | None]] = []
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        if experts is not None and (expert := routed_expert(dot)) is not None and expert not in experts:
            left.pop(f"{dot}weight", None), left.pop(f"{dot}scale", None)
            continue
        if isinstance(module, Linear):
            _plan_linear(module, dot, left, plan, problems)
            continue
        for name, parameter in module.named_parameters(recurse=False):
            tensor = left.pop(dot + name, None)
            if tensor is None:
                problems.missing.append(dot + name)
                continue
            allowed = FLOATS if parameter.dtype.is_floating_point else (torch.int64, torch.int32)
            if tensor.shape != parameter.shape or tensor.dtype not in allowed:
                problems.mismatch(dot + name, tensor, f"{list(parameter.shape)} {_names(allowed)}")
            elif name == "tid2eid":
                _check_table(dot + name, tensor, model.config.n_routed_experts, problems)
            plan.append((module, name, tensor))
    unexpected = sorted(left) if strict else by_kind(left, model.config)[1]
    problems.unexpected += unexpected
    problems.raise_if_any()
    for module, name, tensor in plan:
        module.register_parameter(name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
    return left


def _plan_linear(
    module: Linear,
    dot: str,
    left: dict[str, Tensor],
    plan: list[tuple[nn.Module, str, Tensor | None]],
    problems: _Problems,
) -> None:
    weight = left.pop(f"{dot}weight", None)
    scale = left.pop(f"{dot}scale", None)
    if weight is None:
        problems.missing.append(f"{dot}weight")
        return
    form = quant.FORMS.get(weight.dtype)
    if form is None:
        problems.mismatch(f"{dot}weight", weight, "dtype " + _names(tuple(quant.FORMS)))
        return
    shape, dtype, scale_shape = stored_shapes(module.in_features, module.out_features, form)
    if tuple(weight.shape) != shape:
        problems.mismatch(f"{dot}weight", weight, f"{list(shape)}")
    if scale_shape is None and scale is not None:
        problems.unexpected.append(f"{dot}scale (its weight is {weight.dtype}, which has none)")
    elif scale_shape is not None and scale is None:
        problems.missing.append(f"{dot}scale (its weight is {weight.dtype})")
    elif scale is not None and (tuple(scale.shape) != scale_shape or scale.dtype != torch.float8_e8m0fnu):
        problems.mismatch(f"{dot}scale", scale, f"{list(scale_shape or ())} float8_e8m0fnu")
    plan.append((module, "weight", weight.view(dtype) if weight.dtype == torch.uint8 else weight))
    plan.append((module, "scale", scale))


def _check_table(name: str, table: Tensor, num_experts: int, problems: _Problems) -> None:
    if not 0 <= int(table.min()) <= int(table.max()) < num_experts:
        problems.wrong.append(
            f"{name} has experts {int(table.min())} to {int(table.max())}, expected 0 to {num_experts - 1}"
        )


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


class _Problems:
    """All that does not fit between a model and a set of tensors."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.wrong: list[str] = []

    def mismatch(self, name: str, tensor: Tensor, expected: str) -> None:
        self.wrong.append(f"{name} is {list(tensor.shape)} {_names((tensor.dtype,))}, expected {expected}")

    def raise_if_any(self) -> None:
        parts = []
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("mis-shaped", self.wrong),
        ):
            if names:
                more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
                parts.append(f"{len(names)} {title}: {'; '.join(names[:MAX_LISTED])}{more}")
        if parts:
            raise ValueError("the tensors do not fit config.json\n  " + "\n  ".join(parts))
