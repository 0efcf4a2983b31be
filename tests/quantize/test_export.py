"""Files of quantized models. The `gguf` package reads them back; llama.cpp's converter says the keys."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import load
from wavefold.cli.main import main
from wavefold.locate import DEFAULT_MODEL
from wavefold.quant.encode import TYPES
from wavefold.quantize.export import Export
from wavefold.quantize.source import Source

WIDE = SMALL_WITH_TEXT.replace(hidden_size=256, moe_intermediate_size=256)
MATRICES = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
CONVERTED = {
    "block_count": 4, "context_length": 1048576, "embedding_length": 256, "attention.head_count": 2,
    "attention.head_count_kv": 1, "rope.scaling.type": "yarn", "rope.scaling.factor": 16.0,
    "rope.scaling.original_context_length": 65536, "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0, "rope.freq_base": 10000.0,
    "attention.layer_norm_rms_epsilon": 9.999999974752427e-07, "expert_count": 4, "expert_used_count": 2,
    "expert_gating_func": 4, "attention.key_length": 512, "attention.value_length": 512, "rope.dimension_count": 64,
    "attention.q_lora_rank": 256, "attention.sliding_window": 128, "expert_feed_forward_length": 256,
    "expert_shared_count": 1, "expert_weights_scale": 1.5, "expert_weights_norm": True,
    "swiglu_clamp_exp": [10.0] * 4, "swiglu_clamp_shexp": [10.0] * 4, "attention.indexer.head_count": 4,
    "attention.indexer.key_length": 128, "attention.indexer.top_k": 128, "attention.output_group_count": 2,
    "attention.output_lora_rank": 128, "attention.compress_ratios": [0, 4, 128, 4, 0],
    "attention.compress_rope_freq_base": 160000.0, "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 20, "hyper_connection.epsilon": 9.999999974752427e-07,
    "hash_layer_count": 3, "embedding_length_out": 1024,
}  # fmt: skip
"""The keys of `deepseek4` in the file that llama.cpp's converter (commit 0c1e57098) makes of the model that ships."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("models") / "wide", WIDE)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    return path


def quantize(folder: Path, out: Path, *more: str) -> int:
    return main(["quantize", str(folder), str(out), *more])


def tensors_of(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values_of(tensor: gguf.ReaderTensor) -> np.ndarray:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


@pytest.mark.filterwarnings("ignore:.*cuts texts otherwise")
def test_keys_are_those_of_llama_cpp_s_converter(tmp_path: Path) -> None:
    out = tmp_path / "a.gguf"
    Export(Source(DEFAULT_MODEL), {(layer, m): "mxfp4" for layer in range(4) for m in MATRICES}).write_gguf(out)
    fields = gguf.GGUFReader(out).fields
    found = {
        key.removeprefix("deepseek4."): field.contents() for key, field in fields.items() if key.startswith("deep")
    }
    assert found == CONVERTED
    assert fields["general.file_type"].contents() == 38
    assert fields["tokenizer.ggml.tokens"].contents(0) == "<｜begin▁of▁sentence｜>"
    assert len(fields["tokenizer.ggml.tokens"].data) == 3072
    assert fields["tokenizer.ggml.merges"].contents(4) == "i n"
    assert [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("bos", "eos", "padding")] == [0, 1, 2]
    assert len(tensors_of(out)) == 126


def test_every_value_but_those_of_fp8_is_kept(folder: Path, tmp_path: Path) -> None:
    assert main(["convert", str(folder), str(tmp_path / "a.gguf"), "--dense", "f16"]) == 0
    tensors, source = tensors_of(tmp_path / "a.gguf"), Source(folder)
    for layer in range(3):
        for matrix, name in MATRICES.items():
            found = values_of(tensors[f"blk.{layer}.{name}.weight"])
            for expert in range(4):
                expected = source.expert(layer, expert, matrix).decode(torch.float32).numpy()
                assert found[expert].tobytes() == (expected + 0.0).tobytes()  # minus zero reads as zero
    for official, name in (("embed.weight", "token_embd"), ("layers.1.attn.wkv.weight", "blk.1.attn_kv"),
                           ("layers.2.hc_ffn_fn", "blk.2.hc_ffn_fn"), ("layers.0.ffn_norm.weight", "blk.0.ffn_norm"),
                           ("layers.1.attn.compressor.wgate.weight", "blk.1.attn_compressor_gate")):  # fmt: skip
        expected = source.weight(official).decode(torch.float32).numpy()
        assert (values_of(tensors[f"{name}.weight"]) == expected).all(), name
    table = tensors["blk.0.ffn_gate_tid2eid.weight"]
    assert (table.data == source.tensor("layers.0.ffn.gate.tid2eid").numpy()).all() and table.tensor_type.name == "I32"


@pytest.mark.parametrize("name", ["q2_k", "iq2_xxs", "iq4_xs", "bf16"])
def test_types_of_experts(folder: Path, tmp_path: Path, name: str) -> None:
    assert quantize(folder, tmp_path / "a.gguf", "--experts", name) == 0
    tensors, source = tensors_of(tmp_path / "a.gguf"), Source(folder)
    for matrix, part in MATRICES.items():
        tensor = tensors[f"blk.1.{part}.weight"]
        assert tensor.tensor_type == TYPES[name].number
        expected = source.expert(1, 2, matrix).decode(torch.float32).numpy()
        error = ((values_of(tensor)[2] - expected) ** 2).sum() / (expected**2).sum()
        assert error < {"q2_k": 0.08, "iq2_xxs": 0.13, "iq4_xs": 0.01, "bf16": 1e-9}[name]


def test_budget_importance_and_fewer_experts(
    folder: Path, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.gguf"
    assert quantize(folder, tmp_path / "whole.gguf", "--experts", "mxfp4") == 0
    budget = (tmp_path / "whole.gguf").stat().st_size - 500_000
    more = ("--importance", str(text), "--tokens", "200", "--keep-experts", "3")
    assert quantize(folder, out, "--budget", str(budget), *more) == 0
    assert budget - 30_000 < out.stat().st_size <= budget
    printed = capsys.readouterr().out
    assert "experts: 3 of 4 in each layer stay" in printed and "KL in nats a token, estimated" in printed
    tensors = tensors_of(out)
    assert {tensor.tensor_type.name for name, tensor in tensors.items() if "_exps" in name} > {"MXFP4"}
    assert gguf.GGUFReader(out).fields["deepseek4.expert_count"].contents() == 3
    assert tensors["blk.1.ffn_gate_exps.weight"].shape.tolist() == [256, 256, 3]
    assert tensors["blk.1.ffn_gate_inp.weight"].shape.tolist() == [256, 3]
    assert tensors["blk.1.exp_probs_b.bias"].shape.tolist() == [3]
    assert tensors["blk.0.ffn_gate_tid2eid.weight"].data.max() == 2
    again = quantize(folder, tmp_path / "b.gguf", "--experts", "q2_k", "--importance", f"{out}.importance")
    assert again == 0


def test_fp4_experts_in_the_official_layout(folder: Path, tmp_path: Path, text: Path) -> None:
    """Plain experts become FP4; FP4 experts stay as they are; fewer experts are a model that loads."""
    assert quantize(folder, tmp_path / "same", "--experts", "mxfp4") == 0
    one, other = load(folder, "exact"), load(tmp_path / "same", "exact")
    tokens = torch.arange(20)[None]
    assert torch.equal(one(tokens), other(tokens))
    more = ("--importance", str(text), "--tokens", "100", "--keep-experts", "2")
    assert quantize(folder, tmp_path / "fewer", "--experts", "mxfp4", *more) == 0
    fewer = load(tmp_path / "fewer", "exact")
    assert fewer.config.n_routed_experts == 2 and fewer(tokens).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.gguf",), "one of --experts TYPE and --budget SIZE"),
        (("a.gguf", "--experts", "q9_z"), "'q9_z' is not allowed; expected one of f16"),
        (("a.gguf", "--experts", "w1=q2_k"), "expected one type, or w1=TYPE"),
        (("a.gguf", "--experts", "q2_k", "--keep-experts", "2"), "needs --importance DATA"),
        (("folder", "--experts", "q2_k"), "the official layout has no q2_k"),
        (("a.gguf", "--budget", "10K"), "all but the experts takes"),
    ],
)
def test_mistakes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert quantize(folder, tmp_path / arguments[0], *arguments[1:]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_rows_that_blocks_do_not_fill_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrow = small_model(tmp_path / "narrow")
    assert quantize(narrow, tmp_path / "a.gguf", "--experts", "q2_k") == 2
    assert "rows of 64 values are not allowed for q2_k; expected a multiple of 256" in capsys.readouterr().err
    assert quantize(narrow, tmp_path / "a.gguf", "--experts", "mxfp4") == 0
    assert quantize(narrow, tmp_path / "a.gguf", "--experts", "mxfp4") == 2
    assert "exists already" in capsys.readouterr().err
