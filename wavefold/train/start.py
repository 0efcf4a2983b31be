"""Initial models: small random weights, streams that act as a plain residual, fixed tables of experts."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from wavefold import quant
from wavefold.checkpoint import load
from wavefold.checkpoint.load import assign
from wavefold.config import ModelConfig
from wavefold.model import Transformer
from wavefold.model.official import MATRIX, Matrix, official_owners, official_tensors, own_tensors
from wavefold.ops import Arithmetic
from wavefold.train.recipe import Recipe

SINGLE_STREAM = 4.0
"""`pre` of a model with one stream, before the sigmoid: 98 % of the stream, since 100 % would need infinity."""


def new_model(config: ModelConfig, arithmetic: Arithmetic, seed: int) -> Transformer:
    """Returns a trainable model of float32 masters. The same seed gives the same model."""
    model = Transformer(config, arithmetic)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for prefix, owner in official_owners(model):
        for name, tensor in own_tensors(owner).items():
            full = f"{prefix}.{name}" if prefix else name
            if not isinstance(owner, MATRIX):
                tensors[full] = _plain(full, name, tuple(tensor.shape), config, generator)
            elif name == "weight":
                tensors[full] = _matrix(owner, full, config, generator)
    assign(model, tensors)
    return trainable(model)


def model_from(path: Path, arithmetic: Arithmetic) -> Transformer:
    """Returns a checkpoint as a trainable model of float32 masters. Packed weights are decoded."""
    stored = load(path)
    tensors: dict[str, Tensor] = {}
    for prefix, owner in official_owners(stored):
        for name, tensor in own_tensors(owner).items():
            full = f"{prefix}.{name}" if prefix else name
            if not isinstance(owner, MATRIX):
                tensors[full] = tensor.float() if tensor.is_floating_point() else tensor
            elif name == "weight":
                tensors[full] = quant.dequantize(tensor, owner.scale, torch.float32)
    model = Transformer(stored.config, arithmetic)
    assign(model, {name: tensor.detach().clone() for name, tensor in tensors.items()})
    return trainable(model)


def check_trainable(config: ModelConfig, recipe: Recipe) -> None:
    """Raises ValueError for steps in which nothing learns, and for the MTP loss of a model with several MTP modules.

    Neither the released code nor transformers defines the input of a second module: streams or their collapse, of the
    main model or of the first module. So no outside reference could verify its training.
    """
    obstacles = {
        "lora_rank": recipe.lora_rank > 0,
        "a model without indexed layers": not any(layer.indexed for layer in config.main_layers),
        "index_weight = 0": recipe.index_weight == 0,
    }
    if recipe.indexer_warmup and any(obstacles.values()):
        raise ValueError(
            f"indexer_warmup = {recipe.indexer_warmup} is not allowed with "
            f"{' and '.join(name for name, there in obstacles.items() if there)}; expected 0: in these steps indexers "
            "alone learn"
        )
    if config.num_nextn_predict_layers > 1 and recipe.mtp_weight > 0:
        raise ValueError(
            f"num_nextn_predict_layers = {config.num_nextn_predict_layers} is not allowed in training; expected 0 or "
            "1: V4's released files define one MTP module. Set it to 1 in config.json, or leave all MTP modules as "
            "they are with --set mtp_weight=0"
        )


def arithmetic_of(recipe: Recipe, dtype: torch.dtype) -> Arithmetic:
    """Returns the arithmetic of a run. `dtype`: type of exact activations; released ones are bfloat16."""
    if recipe.activations == "released":
        return Arithmetic("released", torch.bfloat16)
    return Arithmetic("exact", dtype, fp4_index=recipe.quantize == "fp4")


def trainable(model: Transformer) -> Transformer:
    """Enables gradients for all parameters except tables and biases of routers. Returns the model."""
    for name, parameter in official_tensors(model):
        parameter.requires_grad_(parameter.is_floating_point() and not name.endswith("gate.bias"))
    return model


def _matrix(matrix: Matrix, full: str, config: ModelConfig, generator: torch.Generator) -> Tensor:
    """Draws normal weights that keep the size of inputs. Those that write to the residual shrink with depth."""
    std = 0.5 * matrix.in_features**-0.5
    if full.endswith(("wo_b.weight", "w2.weight")):
        std /= math.sqrt(2 * config.num_hidden_layers)
    return torch.randn(matrix.out_features, matrix.in_features, generator=generator) * std


def _plain(full: str, name: str, shape: tuple[int, ...], config: ModelConfig, generator: torch.Generator) -> Tensor:
    if name == "tid2eid":  # experts of each token, distinct and random
        return torch.rand(shape[0], config.n_routed_experts, generator=generator).argsort(1)[:, : shape[1]].contiguous()
    if "norm" in full:
        return torch.ones(shape)
    if name.endswith("_base"):  # pre: an equal share of each stream; post: 1; comb: close to the identity
        streams = config.hc_mult
        base = torch.zeros(shape)
        base[:streams] = -math.log(streams - 1) if streams > 1 else SINGLE_STREAM
        if len(base) > 2 * streams:
            base[2 * streams :] = 4 * torch.eye(streams).flatten()
        return base
    if name.endswith("_scale"):
        return torch.full(shape, 0.1)
    if name in ("attn_sink", "ape", "bias"):
        return torch.zeros(shape)
    return torch.randn(shape, generator=generator) * (0.02 if name.endswith("_fn") else 0.05)
