"""Folders with FP4 experts: config.json says what the files hold, MTP included, and a GGUF file has the same values."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from tests.small import SMALL, small_model
from wavefold import load
from wavefold.atomic import write_json
from wavefold.checkpoint import random_checkpoint
from wavefold.checkpoint.load import assign
from wavefold.checkpoint.random import random_model
from wavefold.checkpoint.save import save
from wavefold.cli.main import main
from wavefold.config import ModelConfig
from wavefold.experts.table import MATRICES
from wavefold.model import Transformer
from wavefold.model.official import official_tensors
from wavefold.quant.encode import encode, fp4_of_mxfp4
from wavefold.quantize.export import Export
from wavefold.quantize.importance import Importance
from wavefold.quantize.source import Source, expert_name

FP8 = SMALL.replace(expert_dtype="fp8")
PLACES = [(layer, matrix) for layer in range(SMALL.num_hidden_layers) for matrix in MATRICES]
STACKS = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose experts are FP8, which two keys say."""
    folder = tmp_path_factory.mktemp("models") / "fp8"
    random_checkpoint(FP8, folder, 6)
    values = json.loads((folder / "config.json").read_text())
    values["quantization_config"]["expert_dtype"] = "fp8"
    write_json(folder / "config.json", values | {"_name_or_path": "kept"})
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in bfloat16, whose keys say nothing about formats."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    model = Transformer(SMALL)
    tensors = dict(official_tensors(random_model(SMALL, 6)))
    assign(model, {name: _narrow(name, tensor) for name, tensor in tensors.items()})
    save(model, folder)
    values = json.loads((folder / "config.json").read_text())
    assert not {"quantization_config", "expert_dtype"} & values.keys() and values["torch_dtype"] == "bfloat16"
    return folder


def _narrow(name: str, tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.dim() == 2 and name.endswith(".weight") else tensor


@pytest.mark.parametrize("kind", ["fp8", "plain"])
def test_other_experts_become_fp4_and_the_keys_say_so(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The folder computes what the source computes with its experts' values rounded, MTP's too."""
    folder: Path = request.getfixturevalue(kind)
    assert main(["quantize", str(folder), str(tmp_path / "fp4"), "--experts", "mxfp4"]) == 0
    values = json.loads((tmp_path / "fp4" / "config.json").read_text())
    assert values["expert_dtype"] == "fp4" and values["quantization_config"]["quant_method"] == "fp8"
    assert values["quantization_config"].get("expert_dtype") == ("fp4" if kind == "fp8" else None)
    assert values.get("_name_or_path") == ("kept" if kind == "fp8" else None)
    assert ModelConfig.from_dict(values) == SMALL

    written = load(tmp_path / "fp4", "exact", strict=True)
    expected = Transformer(SMALL, written.arithmetic)
    tensors = rounded(Source(folder))
    assign(expected, tensors)
    tokens = torch.arange(40)[None]
    assert torch.equal(written(tokens), expected(tokens))
    found = Source(tmp_path / "fp4")
    assert set(found.names) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found.tensor(name).view(torch.uint8), tensor.view(torch.uint8)), name


def rounded(source: Source) -> dict[str, Tensor]:
    """The tensors of a folder, its routed experts in FP4."""
    tensors = {name: source.tensor(name) for name in source.names if ".ffn.experts." not in name}
    parts = [f"layers.{layer}" for layer in range(SMALL.num_hidden_layers)] + ["mtp.0"]
    for part in parts:
        for expert in range(SMALL.n_routed_experts):
            for matrix in MATRICES:
                name = f"{part}.ffn.experts.{expert}.{matrix}"
                values = source.weight(f"{name}.weight").decode(torch.float32)
                tensors[f"{name}.weight"], tensors[f"{name}.scale"] = fp4_of_mxfp4(encode(values, "mxfp4").rows)
    return tensors


def test_fp4_experts_of_mtp_stay_as_they_are(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "fp4", SMALL.replace(vocab_size=300))
    assert main(["quantize", str(folder), str(tmp_path / "same"), "--experts", "mxfp4"]) == 0
    source, found = Source(folder), Source(tmp_path / "same")
    assert found.names and set(found.names) == set(source.names)
    for name in source.names:
        assert torch.equal(found.tensor(name).view(torch.uint8), source.tensor(name).view(torch.uint8)), name


@pytest.mark.filterwarnings("ignore:.*has no tokenizer.json")
@pytest.mark.parametrize("seen", [None, 1.0, 0.0], ids=["no importance", "importance", "columns that were never seen"])
def test_a_folder_and_a_gguf_file_have_the_same_values(fp8: Path, tmp_path: Path, seen: float | None) -> None:
    """The `gguf` package reads the file. `seen`: the mean square of half of the columns, whose weight has a floor."""
    source = Source(fp8)
    importance = None if seen is None else importance_of(FP8, seen)
    export = Export(source, dict.fromkeys(PLACES, "mxfp4"), importance)
    export.write_official(tmp_path / "folder")
    export.write_gguf(tmp_path / "a.gguf")
    folder = Source(tmp_path / "folder")
    stacks = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    for layer, matrix in PLACES:
        stack = stacks[f"blk.{layer}.{STACKS[matrix]}.weight"]
        expected = torch.from_numpy(gguf.quants.dequantize(stack.data, stack.tensor_type))
        for expert in range(FP8.n_routed_experts):
            values = folder.expert(layer, expert, matrix).decode(torch.float32)
            assert torch.equal(values, expected[expert]), expert_name(layer, expert, matrix)


def importance_of(config: ModelConfig, seen: float) -> Importance:
    """Sums of a text whose inputs differ from column to column; those of every second column have mean `seen`."""
    importance = Importance.empty(config)
    generator = torch.Generator().manual_seed(7)
    importance.tokens.fill_(100)
    for sums in (importance.h, importance.inner):
        sums += 100 * torch.rand(sums.shape, generator=generator) ** 4
        sums[..., ::2] *= seen
    return importance


def test_layers_that_keep_unlike_numbers_are_refused(fp8: Path) -> None:
    kept = [[0, 1, 2], [0, 1], [0, 1, 2]]
    with pytest.raises(ValueError, match="keep 2 and 3 experts are not allowed; expected one number; keep the same"):
        Export(Source(fp8), dict.fromkeys(PLACES, "mxfp4"), kept=kept)
    with pytest.raises(ValueError, match="keep 1 and 2 experts"):  # before a configuration of one expert is refused
        Export(Source(fp8), dict.fromkeys(PLACES, "mxfp4"), kept=[[0], [0, 1], [0, 1]])
