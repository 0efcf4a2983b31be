"""Routed experts are no modules: nothing is made for an expert until it is asked for, and all is given back."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.hollow import write_hollow
from tests.small import SMALL
from wavefold import ModelConfig, Transformer, load, random_checkpoint
from wavefold.checkpoint.random import random_model
from wavefold.experts import ResidentExperts
from wavefold.model.official import official_names, official_tensor, official_tensors
from wavefold.ops import Arithmetic, native

RELEASED = Arithmetic("released", torch.bfloat16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "model"
    random_checkpoint(SMALL, folder, 0)
    return folder


@pytest.fixture
def without_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def store_of(model: Transformer) -> ResidentExperts:
    assert isinstance(model.experts.store, ResidentExperts)
    return model.experts.store


def mappings(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


def test_opening_flash_makes_nothing_for_an_expert(tmp_path: Path) -> None:
    """69,187 tensors, 67,584 of them experts': fewer than 3,000 modules, and the others' tensors alone."""
    try:
        num_tensors = write_hollow(ModelConfig.preset("flash"), tmp_path / "flash")
    except OSError as error:
        pytest.skip(f"no hollow files of that size here: {error}")
    gc.collect()
    before = sum(issubclass(type(obj), Tensor) for obj in gc.get_objects())
    with pytest.warns(match="an expert more than once"):  # tables of zeros
        model = load(tmp_path / "flash", "released")
    assert num_tensors == 69_187 and sum(1 for _ in model.modules()) < 3_000
    assert sum(issubclass(type(obj), Tensor) for obj in gc.get_objects()) - before < 3_000
    assert sum(1 for _ in official_names(model)) == num_tensors
    maps = mappings(tmp_path)
    with model.experts.store.acquire(42, [3, 200]) as view:
        assert view[200].w2.codes.shape == (4096, 1024) and view[3].form == "fp4"
        assert int(view[200].w2.codes[-1].view(torch.uint8).sum()) == 0
    with model.experts.store.acquire(42, [5]):
        assert mappings(tmp_path) == maps + 1  # the layer's file, once


def test_official_order_is_the_trees(folder: Path) -> None:
    """Router, routed experts in turn, shared expert; the names alone are those of the tensors."""
    model = load(folder, "exact")
    names = list(official_names(model))
    assert names == [name for name, _ in official_tensors(model)]
    layer = [name.removeprefix("layers.1.ffn.") for name in names if name.startswith("layers.1.ffn.")]
    experts = [
        f"experts.{expert}.{matrix}.{part}"
        for expert in range(SMALL.n_routed_experts)
        for matrix in ("w1", "w2", "w3")
        for part in ("weight", "scale")
    ]
    shared = [f"shared_experts.{matrix}.{part}" for matrix in ("w1", "w2", "w3") for part in ("weight", "scale")]
    assert layer == ["gate.weight", "gate.bias", *experts, *shared]
    places = [places for places, name in enumerate(names) if name.startswith("layers.1.ffn.")]
    assert places == list(range(places[0], places[-1] + 1))


def test_structs_are_those_of_the_views(folder: Path) -> None:
    """Mapped, in memory, replaced, and not here."""
    model = load(folder, "released", experts=range(3))
    store = store_of(model)
    for change in (lambda: None, lambda: store.put(1, 2, store.stored(0, 1)), lambda: store.apply(torch.clone)):
        change()
        for layer in range(SMALL.num_blocks):
            structs = store.structs(layer)
            assert structs.nbytes == SMALL.n_routed_experts * native.EXPERT_DTYPE.itemsize
            assert structs is store.structs(layer)
            with store.acquire(layer, range(3)) as view:
                expected = b"".join(bytes(native.expert_struct(expert, view[expert])) for expert in range(3))
            assert structs[:3].tobytes() == expected
            absent = structs[3]
            assert absent["id"] == 3 and absent["w1"]["codes"] == absent["w3"]["scales"] == 0
            assert absent["w2"]["rows"] == SMALL.hidden_size


def test_structs_of_plain_weights() -> None:
    store = store_of(random_model(SMALL, 0, Arithmetic("exact")))
    with store.acquire(0, range(SMALL.n_routed_experts)) as view:
        expected = b"".join(bytes(native.expert_struct(expert, weights)) for expert, weights in view.items())
    assert store.structs(0).tobytes() == expected
    assert np.all(store.structs(0)["w1"]["form"] == native.FORMS.index("fp32"))


@pytest.mark.usefixtures("without_gc")
def test_a_deleted_model_is_gone_at_once(folder: Path) -> None:
    """Without the garbage collector: nothing points back at the model, and its files are unmapped."""
    model = load(folder, "released")
    sequence = model.new_pool(8).open()
    model.extend(torch.tensor([1, 2, 3]), [sequence], [3])
    model(torch.tensor([[1, 2, 3]]))
    store_of(model).structs(0)
    references = [weakref.ref(part) for part in (model, model.experts, model.experts.store, model.layers[0])]
    assert mappings(folder) > 0
    del model, sequence
    assert [reference() for reference in references] == [None] * len(references)
    assert mappings(folder) == 0


@pytest.mark.usefixtures("without_gc")
def test_closing_unmaps_and_refuses(folder: Path) -> None:
    model = load(folder, "exact")
    before = mappings(folder)
    store = store_of(model)
    for layer in range(SMALL.num_blocks):
        with store.acquire(layer, [0, 1]):
            pass
        store.structs(layer)
    assert mappings(folder) > before
    model.experts.store.close()
    assert mappings(folder) == before
    for ask in (lambda: store.acquire(0, [0]), lambda: store.structs(0), lambda: store.stored(0, 1)):
        with pytest.raises(ValueError, match="the store of the routed experts is closed; load the model again"):
            ask()


def test_arithmetic_does_not_go_stale(folder: Path) -> None:
    """Training sets it after loading: the experts compute in the model's."""
    model, tokens = load(folder, "exact"), torch.tensor([[1, 2, 3]])
    model.arithmetic = RELEASED
    assert model.experts.arithmetic == RELEASED
    assert torch.equal(model(tokens), load(folder, "released")(tokens))


def test_experts_move_with_the_model() -> None:
    model = random_model(SMALL, 0, Arithmetic("exact"))
    name = "layers.1.ffn.experts.2.w2.weight"
    before = official_tensor(model, name)
    model.double()
    assert official_tensor(model, name).dtype == torch.float64
    assert torch.equal(official_tensor(model, name), before.double())
    assert all(tensor.dtype in (torch.float64, torch.int64) for _, tensor in official_tensors(model))


def test_num_bytes_counts_what_is_here(folder: Path) -> None:
    whole, part = load(folder, "exact"), load(folder, "exact", experts=[1])
    routed = {name: tensor for name, tensor in official_tensors(whole) if ".ffn.experts." in name}
    assert store_of(whole).num_bytes == sum(tensor.nbytes for tensor in routed.values())
    assert store_of(part).num_bytes == sum(t.nbytes for name, t in routed.items() if ".experts.1." in name)
    assert store_of(Transformer(SMALL, Arithmetic("exact"))).num_bytes == 0
    packed = random_model(SMALL, 0, Arithmetic("exact"), packed=True)
    assert store_of(packed).num_bytes == store_of(whole).num_bytes


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_files_that_changed_since_the_load_are_named(change: str, tmp_path: Path) -> None:
    """Experts are mapped at first use: they must not come from another checkpoint than the rest."""
    place = tmp_path / "model"
    random_checkpoint(SMALL, place, 0)
    model = load(place, "exact")
    if change == "gone":
        shutil.rmtree(place)
    else:
        random_checkpoint(SMALL, place, 1)
    with pytest.raises(ValueError, match=f"(is gone|was {change}) since the model was loaded.*load it again"):
        model(torch.tensor([[1, 2, 3]]))
