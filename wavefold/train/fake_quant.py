"""Quantization inside training: the forward pass sees the weights that an export will hold. Report section 3.4.

    float32 master --quantize, decode--> the exported value      gradient --straight through--> the master

Routed experts are rounded to FP4 (1x32), other matrices to FP8 (128x128), other tensors to their stored type. So a
model evaluates to the same number before and after its export. FP4 values are multiplied as FP8 values: a 128x128 tile
holds them without loss while its largest scale is at most 2^14 times its smallest. This is checked for each tile.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wavefold import ops, quant
from wavefold.experts import ExpertStore, ExpertView, ExpertWeights
from wavefold.model import Transformer
from wavefold.model.official import (
    MATRIX,
    ExpertMatrix,
    Matrix,
    matrices_of,
    official_owners,
    official_tensors,
    own_tensors,
)
from wavefold.model.parameters import Linear
from wavefold.quant.blocks import LARGEST_SPREAD
from wavefold.quant.weight import DECODED, Weight
from wavefold.train.lora import adapted, has_adapter

QUANTIZE = {"fp4": quant.quantize_fp4, "fp8": quant.quantize_fp8}


class StraightThrough(torch.autograd.Function):
    """Quantizes and decodes. The gradient passes unchanged, in float32."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, form: str, dtype: torch.dtype) -> Tensor:
        return rounded(weight, form, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].float(), None, None


def rounded(weight: Tensor, form: str, dtype: torch.dtype) -> Tensor:
    """weight [out, in] -> the same after storing it in `form` and decoding it to `dtype`, as an export does."""
    if ops.kernels_round(weight, form, dtype):
        value, spread = ops.round_weight(weight, form)
        if form != "fp4" or spread <= LARGEST_SPREAD:
            return value  # else the count of lossy tiles is wanted
    if form not in QUANTIZE:
        return weight.to(torch.bfloat16).to(dtype) if form == "bf16" else weight.to(dtype)
    codes, scale = QUANTIZE[form](weight)
    if form == "fp4" and (lossy := quant.count_lossy_tiles(codes, scale)):
        warnings.warn(
            f"{lossy} tiles of 128x128 FP4 weights have scales more than 2^14 apart: FP8 does not hold them exactly; "
            "they are multiplied as they are, which FP8 hardware cannot",
            stacklevel=2,
        )
    return quant.dequantize(codes, scale, dtype)


class Masters:
    """The float32 parameters of a model that are trained, and the form in which an export stores each of them.

    Packed weights (the base of adapters) are used and exported as they are. Unpacked weights beside adapters keep their
    dtype too, so a bfloat16 base stays bfloat16.
    """

    def __init__(self, model: Transformer, quantize: str = "fp4"):
        """`quantize` "fp4": matrices are used as exported; "none": in bfloat16. It may change between passes."""
        self.model, self.quantize = model, quantize
        self.forms: dict[str, str] = {}
        official = dict(Transformer(model.config).named_parameters())
        adapts = any(isinstance(module, Linear) and has_adapter(module) for module in model.modules())
        bf16 = torch.bfloat16
        for prefix, owner in official_owners(model):
            for name, tensor in own_tensors(owner).items():
                full = f"{prefix}.{name}" if prefix else name
                if isinstance(owner, MATRIX):
                    if name == "weight" and adapts and owner.scale is None:
                        self.forms[full] = "bf16" if tensor.dtype == bf16 else "fp32"
                    elif name == "weight":
                        self.forms[full] = owner.form
                elif tensor.is_floating_point():
                    dtype = tensor.dtype if adapts else official[full].dtype
                    self.forms[full] = "bf16" if dtype == bf16 else "fp32"

    def values(self, module: nn.Module, prefix: str) -> dict[str, Tensor]:
        """Returns the parameters of `module`, by local name, as the forward pass uses them now.

        They are connected to their masters. `prefix`: name of the module in the model, with its dot ("" for the model).
        Routed experts are not parameters; `experts` has them.
        """
        values: dict[str, Tensor] = {}
        for path, owner in module.named_modules():
            dot = f"{path}." if path else ""
            if isinstance(owner, Linear):
                values |= {f"{dot}{name}": value for name, value in self.matrix(owner, prefix + dot).items()}
                continue
            for name, parameter in owner.named_parameters(recurse=False):
                form = self.forms.get(prefix + dot + name)
                if form is not None:  # a table has none
                    values[dot + name] = self._vector(parameter, form)
        return values

    @property
    def experts(self) -> SeenExperts:
        """The routed experts as the forward pass uses them now."""
        return SeenExperts(self)

    def matrix(self, owner: Matrix, prefix: str) -> dict[str, Tensor]:
        """Returns the weight, and its scale, of a matrix as the forward pass uses them.

        Returns {} if they are used as they are stored. `prefix`: name of the matrix with its dot.
        """
        arithmetic = self.model.arithmetic
        master = adapted(owner, own_tensors(owner))
        if master is None or master.is_meta:  # packed, or an expert of another process
            return {}
        form = self.forms[f"{prefix}weight"] if self.quantize == "fp4" else "bf16"
        values = {"weight": StraightThrough.apply(master, form, arithmetic.dtype)}
        if owner.scale is not None:  # the adapted weight of a packed one
            values["scale"] = DECODED
        elif form in QUANTIZE and arithmetic.released:
            values["scale"] = DECODED  # its input must be rounded too
        return values

    def _vector(self, parameter: Tensor, form: str) -> Tensor:
        if form == "fp32":
            return parameter
        if torch.is_grad_enabled() and parameter.requires_grad:  # stays float32, so that its gradient is not rounded
            return StraightThrough.apply(parameter, form, parameter.dtype)
        return parameter.to(torch.bfloat16)

    @torch.no_grad()
    def export(self, parameters: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the tensors of an official checkpoint: packed codes and scales, bfloat16, float32, tables.

        `parameters`: all whole parameters by name (None: those of the model).
        """
        parameters = parameters or dict(official_tensors(self.model))
        tensors: dict[str, Tensor] = {}
        for path, owner in official_owners(self.model):
            dot = f"{path}." if path else ""
            here = {name: parameters[dot + name] for name in own_tensors(owner)}
            if isinstance(owner, MATRIX):
                stored = self.stored(owner, here, self.forms[f"{dot}weight"])
                tensors |= {f"{dot}{name}": tensor for name, tensor in stored.items()}
                continue
            for name, parameter in here.items():
                bf16 = self.forms.get(dot + name) == "bf16"
                tensors[dot + name] = parameter.detach().to(torch.bfloat16 if bf16 else parameter.dtype)
        return tensors

    @staticmethod
    def stored(owner: Matrix, tensors: Mapping[str, Tensor], form: str) -> dict[str, Tensor]:
        """Returns the weight of an exported matrix, and its scale if `form` has one."""
        weight = adapted(owner, tensors)
        if weight is None:
            return {"weight": tensors["weight"].detach(), "scale": tensors["scale"].detach()}
        if form not in QUANTIZE:
            return {"weight": weight.detach().to(torch.bfloat16 if form == "bf16" else torch.float32)}
        return dict(zip(("weight", "scale"), QUANTIZE[form](weight), strict=True))


class SeenExperts(ExpertStore):
    """Routed experts as the forward pass uses them: computed from their masters when acquired, and connected to them.

    Packed experts are returned as they are stored.
    """

    def __init__(self, masters: Masters):
        self._masters, self._store = masters, masters.model.experts.store
        self.table = self._store.table

    def acquire(self, layer: int, ids: Sequence[int]) -> ExpertView:
        return ExpertView(self, layer, {expert: self._seen(layer, expert) for expert in ids})

    def _seen(self, layer: int, expert: int) -> ExpertWeights:
        weights = []
        for name, owner in matrices_of(self._store, layer, expert):
            values = self._masters.matrix(owner, f"{name}.")
            weights.append(Weight.of(values.get("weight", owner.weight), values.get("scale", owner.scale)))
        return ExpertWeights(*weights)

    def stored(self, layer: int, expert: int) -> ExpertWeights:
        return self._store.stored(layer, expert)

    def put(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        self._store.put(layer, expert, weights)

    @property
    def num_bytes(self) -> int:
        return self._store.num_bytes

    def close(self) -> None:
        self._store.close()


@torch.no_grad()
def quantized_share(masters: Masters, number: int = 0) -> float:
    """Returns the share of a routed expert's weights that are values of its format in the forward pass.

    `number` chooses the expert, in turn. The share is 1 while quantization is on. Without it few weights happen to be
    such values.
    """
    experts = [
        (name, owner) for name, owner in official_owners(masters.model)
        if isinstance(owner, ExpertMatrix) and name.endswith(".w1") and not owner.weight.is_meta
    ]  # fmt: skip
    name, owner = experts[number % len(experts)]
    if owner.scale is not None:  # packed weights are always values of the format
        return 1.0
    value = masters.matrix(owner, f"{name}.")["weight"].float()
    return float((rounded(value, masters.forms[f"{name}.weight"], torch.float32) == value).float().mean())


def check_quantized(masters: Masters) -> None:
    """Raises RuntimeError unless the forward pass quantizes experts and index as the run says."""
    if masters.quantize != "fp4":
        return
    if not masters.model.arithmetic.rounds_index:
        raise RuntimeError(
            "quantize = 'fp4', but the model's arithmetic does not round the index; expected Arithmetic('released') or "
            "fp4_index=True"
        )
    codes = masters.export()
    for path, owner in official_owners(masters.model):
        if not isinstance(owner, MATRIX) or masters.forms[f"{path}.weight"] not in QUANTIZE or owner.weight.is_meta:
            continue
        seen = masters.matrix(owner, f"{path}.")
        weight = Weight.of(seen.get("weight", owner.weight), seen.get("scale", owner.scale))
        value = weight.decode(torch.bfloat16).detach()
        if not torch.equal(value, quant.dequantize(codes[f"{path}.weight"], codes[f"{path}.scale"])):
            raise RuntimeError(f"{path}: the forward pass does not see what an export holds; quantization is off")
