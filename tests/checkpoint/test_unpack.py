"""A GGUF file as a folder: the official bytes come back, other blocks are rounded once, the vocabulary goes along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.gguf_files import TEXTS, TINY, official_folder, rewritten, tensors_of, values_of
from wavefold import ModelConfig
from wavefold.chat import Tokenizer
from wavefold.checkpoint import load
from wavefold.cli.main import main
from wavefold.quant.encode import fp4_of_mxfp4, mxfp4_of_fp4


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def without_q8(path: Path) -> Path:
    """TINY with bfloat16 in place of Q8_0."""
    return rewritten(TINY, path, lambda name, kind: "BF16" if kind == "Q8_0" else kind)


def test_the_official_experts_come_back_to_the_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """TINY is what llama.cpp's converter wrote of the official folder."""
    before = tensors(official_folder(tmp_path / "official"))
    assert main(["convert", str(TINY), str(tmp_path / "back")]) == 0
    after = tensors(tmp_path / "back")
    experts = [name for name in before if ".experts." in name]
    assert len(experts) == 2 * 3 * 3 * 2
    for name in experts:
        assert torch.equal(after[name].view(torch.uint8), before[name].view(torch.uint8)), name
    assert before.keys() - after.keys() == {n for n in before if n.endswith(".scale") and n not in experts}
    assert "rounded to bfloat16: q8_0 x 17 matrices" in capsys.readouterr().out  # FP8, as the converter wrote it
    head = torch.from_numpy(values_of(*tensors_of(TINY)["output.weight"]))
    assert torch.equal(after["head.weight"].float(), head.float())


def test_the_folder_is_a_model_with_its_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = without_q8(tmp_path / "some.gguf")
    assert main(["convert", str(path), str(tmp_path / "back")]) == 0
    assert "rounded" not in capsys.readouterr().out
    folder = load(tmp_path / "back", "exact", torch.float32, strict=True)
    file = load(path, "exact", torch.float32)
    ids = torch.arange(40)[None] % 300
    assert torch.equal(folder.forward(ids), file.forward(ids))
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["expert_dtype"] == "fp4" and config["torch_dtype"] == "bfloat16"
    assert ModelConfig.from_file(tmp_path / "back") == ModelConfig.from_file(TINY)
    one, other = Tokenizer.load(tmp_path / "back"), Tokenizer.load(TINY)
    assert all(one.encode(text) == other.encode(text) for text in TEXTS)


@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
def test_other_blocks_are_rounded_once(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "blk.1.ffn_down_exps.weight"
    plain = without_q8(tmp_path / "plain.gguf")
    path = rewritten(plain, tmp_path / "some.gguf", lambda one, as_it_is: kind if one == name else as_it_is)
    assert main(["convert", str(path), str(tmp_path / "back")]) == 0
    assert f"rounded to bfloat16: {kind.lower()} x 3 matrices" in capsys.readouterr().out
    values = torch.from_numpy(values_of(*tensors_of(path)[name]).astype("float32"))
    found = tensors(tmp_path / "back")
    for expert in range(3):
        matrix = found[f"layers.1.ffn.experts.{expert}.w2.weight"]
        assert torch.equal(matrix, values[expert].bfloat16())


def test_blocks_and_fp4_are_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (7, 64), dtype=torch.uint8, generator=generator)
    scales = torch.randint(0, 255, (7, 4), dtype=torch.uint8, generator=generator)
    back, back_scales = fp4_of_mxfp4(mxfp4_of_fp4(codes, scales))
    assert torch.equal(back.view(torch.uint8), codes) and torch.equal(back_scales.view(torch.uint8), scales)
    scales[3, 2] = 255
    with pytest.raises(ValueError, match="FP4 lacks"):
        fp4_of_mxfp4(mxfp4_of_fp4(codes, scales))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((str(TINY), "out.gguf"), "expected a folder"), ((str(TINY), "out", "--dense", "bf16"), "--dense bf16")],
)
def test_what_cannot_be(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", *arguments]) == 2
    assert message in capsys.readouterr().err
