"""What was loaded is saved byte for byte, and other formats are the same values or are refused.

Files are read here by the safetensors library, which neither `load` nor `save` uses for the tensors' bytes.
"""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavefold import ModelConfig, Transformer, load, quant, random_checkpoint, save
from wavefold.checkpoint import random_model
from wavefold.checkpoint.files import read_tensors
from wavefold.model.official import official_tensor, official_tensors
from wavefold.ops import Arithmetic

FORMS = ["fp4", "fp8", "bf16"]
VECTORS = Path(__file__).parents[1] / "vectors"


def bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(bytes_of(got[name]), bytes_of(tensor)), name


def is_routed(name: str) -> bool:
    return ".ffn.experts." in name


def values(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoded weights, by name."""
    return {
        name: quant.dequantize(tensor, tensors.get(name.removesuffix("weight") + "scale"), torch.float32)
        for name, tensor in tensors.items()
        if name.endswith(".weight")
    }


@pytest.mark.parametrize("form", FORMS)
def test_load_and_save_give_every_byte_back(form: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source, copy = checkpoint(form), tmp_path / "copy"
    save(load(source, "exact"), copy)
    assert_same(stored(copy), stored(source))
    names = sorted(path.name for path in source.iterdir())
    assert sorted(path.name for path in copy.iterdir()) == names
    for name in names:
        assert (copy / name).read_bytes() == (source / name).read_bytes(), name


@pytest.mark.parametrize("form", FORMS)
def test_reader_agrees_with_safetensors(form: str, checkpoint: Callable[[str], Path]) -> None:
    assert_same(read_tensors(checkpoint(form)), stored(checkpoint(form)))


@pytest.mark.parametrize("name", ["small-a", "small-b"])
def test_released_layout(name: str, tmp_path: Path) -> None:
    """A checkpoint that was not written by this package, as one unindexed file."""
    save(load(VECTORS / name, "exact"), tmp_path / "copy")
    assert_same(stored(tmp_path / "copy"), load_file(VECTORS / name / "model.safetensors"))


def test_index_and_modes(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("fp4")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = stored(folder)
    assert index["metadata"]["total_size"] == sum(len(bytes_of(t)) for t in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    for name, file in index["weight_map"].items():
        assert name in load_file(folder / file)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_tensors_are_aligned(checkpoint: Callable[[str], Path]) -> None:
    for tensor in read_tensors(checkpoint("fp4")).values():
        assert tensor.data_ptr() % tensor.element_size() == 0


@pytest.mark.parametrize("form", ["fp8", "bf16"])
def test_fp4_in_another_format_and_back(form: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = checkpoint("fp4")
    save(load(source, "exact"), tmp_path / "other", experts=form)
    other = stored(tmp_path / "other")
    assert ModelConfig.from_file(tmp_path / "other").expert_dtype == form
    dtype = {"fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16}[form]
    assert {t.dtype for n, t in other.items() if is_routed(n) and n.endswith("weight")} == {dtype}
    assert any(is_routed(n) and n.endswith("scale") for n in other) == (form == "fp8")

    save(load(tmp_path / "other", "exact"), tmp_path / "back", experts="fp4")
    back, original = stored(tmp_path / "back"), stored(source)
    assert ModelConfig.from_file(tmp_path / "back").expert_dtype == "fp4"
    expected = values(original)
    for tensors in (other, back):
        decoded = values(tensors)
        for name, weight in expected.items():
            assert torch.equal(decoded[name], weight), name
        plain = [{n: t for n, t in side.items() if not is_routed(n)} for side in (tensors, original)]
        assert_same(*plain)


def test_config_says_how_experts_were_stored(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A folder whose config.json contradicts its tensors: these decide, and the copy's config.json agrees."""
    folder = tmp_path / "wrong"
    save(load(checkpoint("fp8"), "exact"), folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"fp8",\n "quantization', '"fp4",\n "quantization'))
    assert ModelConfig.from_file(folder).expert_dtype == "fp4"
    save(load(folder, "exact"), tmp_path / "right")
    assert ModelConfig.from_file(tmp_path / "right").expert_dtype == "fp8"


def set_scale(model: Transformer, name: str, place: tuple[int, int], byte: int) -> None:
    scale = official_tensor(model, name)
    scale.view(torch.uint8)[place] = byte


def test_scales_too_far_apart_for_fp8(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    model = load(checkpoint("fp4"), "exact")
    set_scale(model, "layers.1.ffn.experts.2.w3.scale", (130, 4), 127 + 10)
    save(model, tmp_path / "fp4")
    with pytest.raises(ValueError, match=r"layers\.1\.ffn\.experts\.2\.w3\.weight: fp4_to_fp8 would lose values"):
        save(model, tmp_path / "fp8", experts="fp8")
    assert [path.name for path in tmp_path.iterdir()] == ["fp4"], "nothing is left of the refused save"


def test_fp8_values_that_are_no_fp4_values(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layers\.0\.ffn\.experts\.0\.w1\.weight: fp8_to_fp4 would lose values"):
        save(load(checkpoint("fp8"), "exact"), tmp_path / "fp4", experts="fp4")


@pytest.mark.parametrize("form", FORMS)
def test_master_weights_are_not_rounded(form: str, config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"its fp32 values are not all {form} values"):
        save(random_model(config, seed=0, arithmetic=Arithmetic("exact")), tmp_path / "packed", experts=form)


def test_unknown_format(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="experts = 'int4' is not allowed; expected fp4, fp8, bf16"):
        save(load(checkpoint("fp4"), "exact"), tmp_path / "int4", experts="int4")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_any_weight_may_be_plain(dtype: torch.dtype, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Decoded weights in place of packed ones: the same model, to the last bit of its logits."""
    source = checkpoint("fp4")
    tensors = stored(source)
    plain = {name: value.to(dtype) for name, value in values(tensors).items()}
    rest = {name: t for name, t in tensors.items() if name not in plain and not name.endswith(".scale")}
    save_file(plain | rest, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(load(tmp_path, "exact")(tokens), load(source, "exact")(tokens))


def test_codes_as_unsigned_bytes(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = checkpoint("fp4")
    tensors = {n: t.view(torch.uint8) if t.dtype == torch.int8 else t for n, t in stored(source).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    save(load(tmp_path, "exact"), tmp_path / "copy")
    assert_same(stored(tmp_path / "copy"), stored(source))


def test_writing_to_a_loaded_weight_leaves_the_file(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(load(checkpoint("fp4"), "exact"), folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    load(folder, "exact").embed.weight.zero_()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_saving_over_what_it_was_loaded_from(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(load(checkpoint("fp4"), "exact"), folder)
    (folder / "tokenizer.json").write_text("{}")
    model = load(folder, "exact")
    save(model, folder)
    save(model, folder)
    assert_same(stored(folder), stored(checkpoint("fp4")))
    assert (folder / "tokenizer.json").read_text() == "{}", "the tokenizer goes along"


class TestRandom:
    def test_depends_on_seed_and_name_alone(self, config: ModelConfig, tmp_path: Path) -> None:
        random_checkpoint(config, tmp_path / "a", seed=3)
        random_checkpoint(config, tmp_path / "b", seed=3)
        random_checkpoint(config.cut(num_layers=1), tmp_path / "cut", seed=3)
        random_checkpoint(config, tmp_path / "c", seed=4)
        a, b, c = (stored(tmp_path / name) for name in "abc")
        assert_same(a, b)
        assert not any(torch.equal(bytes_of(a[n]), bytes_of(c[n])) for n in a if a[n].numel() > 100)
        cut = stored(tmp_path / "cut")
        assert_same(cut, {name: a[name] for name in cut})

    @pytest.mark.parametrize("form", FORMS)
    def test_values(self, form: str, config: ModelConfig) -> None:
        """Finite, alive, and projections keep the size of what goes in."""
        model = random_model(config.replace(expert_dtype=form), seed=0, packed=True, arithmetic=Arithmetic("exact"))
        tensors = dict(official_tensors(model))
        for name, weight in values(tensors).items():
            assert bool(weight.isfinite().all()), name
            assert weight.unique().numel() > 10, name
            if name.endswith(("wq_a.weight", "w1.weight", "w2.weight", "wo_b.weight", "head.weight")):
                assert 0.3 < float(weight.std() * weight.shape[1] ** 0.5) < 3, name
        for name, tensor in tensors.items():
            if name.endswith(".scale"):
                assert tensor.numel() < 20 or tensor.view(torch.uint8).unique().numel() == 3, name

    def test_expert_table(self, config: ModelConfig) -> None:
        table = random_model(config, seed=0, arithmetic=Arithmetic("exact")).layers[0].ffn.gate.tid2eid
        assert table.shape == (300, 2)
        assert all(len(set(row)) == len(row) for row in table.tolist())
        assert torch.bincount(table.flatten(), minlength=3).min() > 150

    def test_progress_and_extra_files(self, config: ModelConfig, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        random_checkpoint(
            config,
            tmp_path / "a",
            seed=0,
            on_shard=lambda done, of: seen.append((done, of)),
            finish=lambda folder: (folder / "note").touch(),
        )
        assert seen == [(done, 6) for done in range(7)]
        assert (tmp_path / "a" / "note").exists()
