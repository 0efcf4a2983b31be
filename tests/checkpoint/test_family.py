"""Checkpoints of the family that hold more, or less, than the text model needs load, and what is left out is named."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavefold import Transformer, load, save
from wavefold.system import Notice

TOKENS = torch.arange(12)[None] % 64

Change = Callable[[dict[str, Tensor], dict[str, object]], None]


def drafter(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    """Three stages in place of the MTP module: the later releases' names, without the MTP module's projections."""
    module = {name: tensors.pop(name) for name in list(tensors) if name.startswith("mtp.0.")}
    for stage in range(3):
        for name, tensor in module.items():
            part = name.removeprefix("mtp.0.")
            last = part.startswith(("norm", "hc_head"))
            if part.split(".")[0] not in ("e_proj", "h_proj", "enorm", "hnorm") and (stage == 2 or not last):
                tensors[f"mtp.{stage}.{part}"] = tensor.clone()
    tensors["mtp.0.main_norm.weight"] = tensors["norm.weight"].clone()
    tensors["mtp.2.markov_w1"] = torch.ones(4, 4)
    config["compress_ratios"] = [0, 4, 128, 0, 0, 0]
    config |= {"dspark_block_size": 5, "dspark_target_layer_ids": [0, 1, 2]}


def drafter_unannounced(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    drafter(tensors, config)
    config["num_nextn_predict_layers"] = 0


def drafter_announced_as_three(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    drafter(tensors, config)
    config["num_nextn_predict_layers"] = 3


def mtp_unannounced(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    config |= {"num_nextn_predict_layers": 0, "compress_ratios": [0, 4, 128]}


def mtp_stripped(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    for name in [name for name in tensors if name.startswith("mtp.")]:
        del tensors[name]


def copies_in_the_mtp_module(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    tensors["mtp.0.emb.tok_emb.weight"] = tensors["embed.weight"].clone()
    tensors["mtp.0.head.weight"] = tensors["head.weight"].clone()


def biases_of_hash_layers(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    tensors["layers.0.ffn.gate.bias"] = torch.ones(3)


def rotary_tables(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    tensors["layers.0.attn.rotary_emb.inv_freq"] = torch.ones(8)
    tensors["rotary_emb.inv_freq"] = torch.ones(8)


WITHOUT_MTP = (drafter, drafter_unannounced, drafter_announced_as_three, mtp_unannounced, mtp_stripped)
WITH_MTP = (copies_in_the_mtp_module, biases_of_hash_layers, rotary_tables)


@pytest.fixture
def changed(checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[Change], Path]:
    """A checkpoint after a change of its tensors and configuration."""

    def make(change: Change) -> Path:
        source, folder = checkpoint("fp4"), tmp_path / "changed"
        folder.mkdir()
        tensors = {name: t for file in sorted(source.glob("*.safetensors")) for name, t in load_file(file).items()}
        config = json.loads((source / "config.json").read_text())
        change(tensors, config)
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def loaded(folder: Path) -> tuple[Transformer, list[str]]:
    """The model, and what a user was told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(folder, "exact")
    assert all(issubclass(warning.category, Notice) for warning in caught)
    return model, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("change", [*WITHOUT_MTP, *WITH_MTP])
def test_the_text_model_is_the_same(
    change: Change, changed: Callable[[Change], Path], checkpoint: Callable[[str], Path]
) -> None:
    model, notes = loaded(changed(change))
    assert torch.equal(model(TOKENS), load(checkpoint("fp4"), "exact")(TOKENS))
    assert len(model.mtp) == (change in WITH_MTP)
    words = {
        drafter: "runs without MTP", drafter_unannounced: "a drafter", mtp_unannounced: "does not announce",
        drafter_announced_as_three: "num_nextn_predict_layers = 3", mtp_stripped: "runs without MTP",
        copies_in_the_mtp_module: "copies of embedding and head", biases_of_hash_layers: "biases of hash layers",
        rotary_tables: "2 of tables of rotary frequencies",
    }  # fmt: skip
    assert words[change] in " ".join(notes)


@pytest.mark.parametrize("change", [*WITHOUT_MTP, *WITH_MTP])
def test_strict_refuses(change: Change, changed: Callable[[Change], Path]) -> None:
    with pytest.raises(ValueError, match=r"missing|unexpected"):
        load(changed(change), "exact", strict=True)


@pytest.mark.parametrize("change", [*WITHOUT_MTP, *WITH_MTP])
def test_a_copy_holds_what_was_left_out(change: Change, changed: Callable[[Change], Path], tmp_path: Path) -> None:
    folder = changed(change)
    model, notes = loaded(folder)
    save(model, tmp_path / "copy")
    stored = {n: t for file in sorted((tmp_path / "copy").glob("*.safetensors")) for n, t in load_file(file).items()}
    original = load_file(folder / "model.safetensors")
    assert stored.keys() == original.keys()
    for name, tensor in original.items():
        assert torch.equal(stored[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)), name
    assert json.loads((tmp_path / "copy" / "config.json").read_text()) == json.loads(
        (folder / "config.json").read_text()
    )
    assert [note.partition(": ")[2] for note in loaded(tmp_path / "copy")[1]] == [n.partition(": ")[2] for n in notes]


def test_what_nobody_knows_is_refused(changed: Callable[[Change], Path]) -> None:
    def stranger(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
        tensors["layers.0.attn.q_gate"] = torch.ones(2)
        tensors["layers.1.ffn.gate.bias2"] = torch.ones(2)

    with pytest.raises(ValueError, match=r"2 unexpected: layers\.0\.attn\.q_gate; layers\.1\.ffn\.gate\.bias2"):
        load(changed(stranger), "exact")


def test_a_mis_shaped_mtp_module_is_refused(changed: Callable[[Change], Path]) -> None:
    def torn(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
        tensors["mtp.0.enorm.weight"] = torch.ones(3)

    with pytest.raises(ValueError, match=r"mtp\.0\.enorm\.weight is \[3\]"):
        load(changed(torn), "exact")


def test_the_names_that_transformers_saves_are_named(changed: Callable[[Change], Path]) -> None:
    def renamed(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
        for name in list(tensors):
            tensors[f"model.{name}"] = tensors.pop(name)

    with pytest.raises(ValueError, match="holds transformers' names"):
        load(changed(renamed), "exact")


def test_a_table_that_gives_a_token_one_expert_twice_is_named(changed: Callable[[Change], Path]) -> None:
    """transformers begins with tables of zeros."""

    def zeros(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
        tensors["layers.0.ffn.gate.tid2eid"] = torch.zeros_like(tensors["layers.0.ffn.gate.tid2eid"])

    (note,) = loaded(changed(zeros))[1]
    assert note.endswith("layers.0.ffn.gate.tid2eid gives 300 of 300 tokens an expert more than once")


def test_keys_that_nobody_knows_are_named(changed: Callable[[Change], Path]) -> None:
    def extra(tensors: dict[str, Tensor], config: dict[str, object]) -> None:
        config |= {"attention_chunk_size": 64, "use_cache": True}

    folder = changed(extra)
    assert [note.partition(": ")[2] for note in loaded(folder)[1]] == [
        "keys of config.json that nobody knows have no effect: attention_chunk_size"
    ]
    with pytest.raises(ValueError, match="attention_chunk_size are not known"):
        load(folder, "exact", strict=True)
