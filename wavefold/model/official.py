"""A model's tensors under the official checkpoint's names and in its order, wherever they lie.

modules' own parameters        embed.weight, layers.3.attn.wq_a.weight, ...
the store of routed experts    layers.3.ffn.experts.17.w2.scale, after the layer's router, before its shared expert
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from wavefold.experts import ExpertStore, routed_expert
from wavefold.experts.table import MATRICES
from wavefold.model.moe import MoE
from wavefold.model.parameters import Linear
from wavefold.model.transformer import Transformer
from wavefold.quant import Format, Weight


class ExpertMatrix(NamedTuple):
    """A matrix of a routed expert, with the attributes of a Linear."""

    in_features: int
    out_features: int
    form: str
    """The format in the official file."""
    stored: Weight

    @property
    def packed(self) -> Format | None:
        return self.stored.packed

    @property
    def weight(self) -> Tensor:
        return self.stored.codes

    @property
    def scale(self) -> Tensor | None:
        return self.stored.scales


Owner = nn.Module | ExpertMatrix
Matrix = Linear | ExpertMatrix
MATRIX = (Linear, ExpertMatrix)
"""For isinstance: the classes with `stored`, `weight`, `scale`, `form` and sizes."""


def official_owners(model: Transformer) -> Iterator[tuple[str, Owner]]:
    """Yields the owners of tensors by name: modules, and the routed experts' matrices."""
    for name, module in model.named_modules():
        if (layer := routed_before(model, name)) is not None:
            yield from expert_matrices(model, layer)
        yield name, module


def routed_before(model: Transformer, name: str) -> int | None:
    """Returns the layer whose routed experts come before the module of this name, or None."""
    block, shared, rest = name.partition(".ffn.shared_experts")
    return _layer(model, block) if shared and not rest else None


def expert_matrices(model: Transformer, layer: int) -> Iterator[tuple[str, ExpertMatrix]]:
    """Yields the matrices of a layer's routed experts by name."""
    for expert in range(model.experts.store.table.num_experts):
        yield from matrices_of(model.experts.store, layer, expert)


def matrices_of(store: ExpertStore, layer: int, expert: int) -> Iterator[tuple[str, ExpertMatrix]]:
    """Yields the matrices of a routed expert by name."""
    table = store.table
    weights = store.stored(layer, expert)
    for name, (rows, columns), weight in zip(MATRICES, table.sizes, weights, strict=True):
        yield f"{table.prefix(layer)}{expert}.{name}", ExpertMatrix(columns, rows, table.official.name, weight)


def own_tensors(owner: Owner) -> dict[str, Tensor]:
    """Returns an owner's tensors by their names in it."""
    if isinstance(owner, ExpertMatrix):
        return {"weight": owner.weight} | ({} if owner.scale is None else {"scale": owner.scale})
    return dict(owner.named_parameters(recurse=False))


def official_tensors(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Yields all tensors by name. A tensor of a mapped expert is made when its turn comes."""
    for owner_name, owner in official_owners(model):
        for name, tensor in own_tensors(owner).items():
            yield f"{owner_name}.{name}" if owner_name else name, tensor


def official_tensor(model: Transformer, name: str) -> Tensor:
    """Returns the tensor of this name. Raises AttributeError where the model has none, as modules do."""
    owner, _, last = name.rpartition(".")
    tensor: Tensor | None = getattr(official_owner(model, owner), last)
    if tensor is None:
        raise AttributeError(f"{name} is not there: its weight has no scale")
    return tensor


def official_owner(model: Transformer, name: str) -> Owner:
    """Returns the module, or the routed expert's matrix, of this name."""
    if routed_expert(f"{name}.") is None:
        return model.get_submodule(name)
    layer, expert, matrix = _place(model, name)
    table = model.experts.store.table
    rows, columns = table.sizes[matrix]
    return ExpertMatrix(columns, rows, table.official.name, model.experts.store.stored(layer, expert)[matrix])


def official_names(model: Transformer, part: str = "") -> Iterator[str]:
    """Yields the names in the model or a part of it, without making tensors of experts."""
    for owner, module in model.get_submodule(part).named_modules(prefix=part):
        if (layer := routed_before(model, owner)) is not None:
            yield from model.experts.store.table.stored_names(layer)
        yield from (f"{owner}.{name}" if owner else name for name, _ in module.named_parameters(recurse=False))


def _place(model: Transformer, name: str) -> tuple[int, int, int]:
    """Returns layer, expert and matrix of a name like layers.3.ffn.experts.17.w2."""
    part, _, rest = name.partition(".ffn.experts.")
    expert, _, matrix = rest.partition(".")
    return _layer(model, part), int(expert), MATRICES.index(matrix)


def _layer(model: Transformer, block: str) -> int:
    """Returns the layer number of the block of this name."""
    moe = model.get_submodule(f"{block}.ffn")
    assert isinstance(moe, MoE)
    return moe.layer
