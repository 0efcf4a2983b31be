"""What is wrong with a checkpoint is said in one ValueError, and nothing in it is ever executed."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavefold import load
from wavefold.ops import Arithmetic

Checkpoint = Callable[[str], Path]


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A checkpoint of one unindexed file, to be damaged."""
    source = checkpoint("fp4")
    tensors = {name: t for file in sorted(source.glob("*.safetensors")) for name, t in load_file(file).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    return tmp_path


@pytest.fixture
def sharded(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A checkpoint with shards and an index, to be damaged."""
    for file in checkpoint("fp4").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(folder: Path, **changes: Tensor | None) -> None:
    """Replace or remove (None) tensors; a double underscore stands for a dot."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / "model.safetensors")


def refused(folder: Path, *parts: str) -> str:
    """Loading fails with all of `parts`, and says where."""
    with pytest.raises(ValueError) as error:
        load(folder, "exact")
    message = str(error.value)
    assert str(folder) in message
    for part in parts:
        assert part in message
    return message


class TestTensors:
    def test_all_that_does_not_fit_is_in_one_error(self, folder: Path) -> None:
        change(
            folder,
            norm__weight=None,
            layers__1__attn__wq_a__weight=None,
            layers__1__attn__wq_b__scale=None,
            spare=torch.zeros(1),
            head__weight=torch.zeros(3, 160, dtype=torch.bfloat16),
            layers__0__attn__attn_sink=torch.zeros(2, dtype=torch.float16),
            layers__2__ffn__experts__0__w1__weight=torch.zeros(192, 79, dtype=torch.int8),
        )
        message = refused(
            folder,
            "3 missing: ",
            "norm.weight",
            "layers.1.attn.wq_a.weight",
            "layers.1.attn.wq_b.scale (its weight is torch.float8_e4m3fn)",
            "1 unexpected: spare",
            "3 mis-shaped: ",
            "head.weight is [3, 160] bfloat16, expected [300, 160]",
            "layers.0.attn.attn_sink is [2] float16, expected [2] bfloat16 or float32",
            "layers.2.ffn.experts.0.w1.weight is [192, 79] int8, expected [192, 80]",
        )
        assert "layers.1.attn.wq_a.scale" not in message, "a lost weight is one problem, not two"

    def test_long_lists_are_cut(self, folder: Path) -> None:
        change(folder, **{f"spare{i}": torch.zeros(1) for i in range(20)})
        refused(folder, "20 unexpected: spare0; spare1;", "and 12 more")

    def test_scale_of_a_weight_that_has_none(self, folder: Path) -> None:
        change(folder, layers__0__attn__wq_a__weight=torch.zeros(144, 160))
        refused(folder, "1 unexpected: layers.0.attn.wq_a.scale (its weight is torch.float32, which has none)")

    @pytest.mark.parametrize("scale", [torch.zeros(2, 2), torch.zeros(2, 3).to(torch.float8_e8m0fnu)])
    def test_wrong_scale(self, folder: Path, scale: Tensor) -> None:
        change(folder, layers__0__attn__wq_a__scale=scale)
        refused(folder, "layers.0.attn.wq_a.scale is", "expected [2, 2] float8_e8m0fnu")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.float8_e5m2])
    def test_weight_of_another_dtype(self, folder: Path, dtype: torch.dtype) -> None:
        change(folder, layers__0__attn__wq_a__weight=torch.zeros(144, 160).to(dtype))
        refused(folder, "layers.0.attn.wq_a.weight is [144, 160]", "expected dtype int8 or uint8 or float8_e4m3fn or")

    @pytest.mark.parametrize(("low", "high"), [(-1, 2), (0, 3)])
    def test_expert_table_out_of_range(self, folder: Path, low: int, high: int) -> None:
        table = torch.zeros(300, 2, dtype=torch.int64)
        table[0, 0], table[299, 1] = low, high
        change(folder, layers__0__ffn__gate__tid2eid=table)
        refused(folder, f"layers.0.ffn.gate.tid2eid has experts {low} to {high}, expected 0 to 2")

    def test_config_of_another_model(self, folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | {"n_routed_experts": 4, "q_lora_rank": 96}))
        refused(folder, "missing", "layers.0.ffn.experts.3.w1.weight", "layers.0.attn.wq_a.weight is [144, 160]")

    def test_config_with_another_schedule(self, folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | {"compress_ratios": [4, 4, 128, 0]}))
        refused(folder, "missing", "layers.0.attn.indexer.wq_b.weight")

    def test_config_that_contradicts_itself(self, folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | {"num_experts_per_tok": 9}))
        refused(folder, "config.json", "num_experts_per_tok = 9 is not allowed")

    def test_model_is_unchanged_by_a_refusal(self, folder: Path) -> None:
        """`assign` sets nothing until everything fits."""
        from wavefold import ModelConfig, Transformer
        from wavefold.checkpoint.load import assign
        from wavefold.model.official import official_tensors

        tensors = load_file(folder / "model.safetensors")
        del tensors["norm.weight"]
        model = Transformer(ModelConfig.from_file(folder), Arithmetic("exact"))
        with pytest.raises(ValueError, match=r"1 missing: norm\.weight"):
            assign(model, tensors)
        assert all(tensor.is_meta for _, tensor in official_tensors(model))


class TestFiles:
    @pytest.mark.parametrize("keep", [0, 7, 8, 100, -1, -4096])
    def test_truncated(self, folder: Path, keep: int) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[:keep])
        refused(folder, "model.safetensors: not a readable safetensors file")

    def test_too_long(self, folder: Path) -> None:
        with (folder / "model.safetensors").open("ab") as file:
            file.write(b"\0")
        refused(folder, "not a readable safetensors file")

    @pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
    def test_absurd_header_length(self, folder: Path, length: int) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + content[8:])
        refused(folder, "not a readable safetensors file")

    @pytest.mark.parametrize(
        "header",
        [
            b"{",
            b"[]",
            b"\xff\xff",
            b"[" * 10_000,
            b'{"a": 1}',
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 3]}}',
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
            b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
            b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
            b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 4], "data_offsets": [0, 4]}}',
            b'{"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}}',
        ],
    )
    def test_corrupt_header(self, folder: Path, header: bytes) -> None:
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
        refused(folder, "not a readable safetensors file")

    def test_dtype_that_torch_lacks(self, folder: Path) -> None:
        header = b'{"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}'
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
        refused(folder, "a has dtype F4; expected one of F64, F32")

    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        refused(folder, "holds no *.safetensors file")

    def test_no_folder(self, tmp_path: Path) -> None:
        refused(tmp_path / "nowhere", "no such file; expected an official config.json")

    def test_tensor_in_two_files(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        save_file({"norm.weight": torch.zeros(160)}, folder / "b.safetensors")
        refused(folder, "b.safetensors: tensor norm.weight is in another file")

    def test_several_files_without_an_index(self, sharded: Path) -> None:
        (sharded / "model.safetensors.index.json").unlink()
        load(sharded, "exact")


class TestIndex:
    def rewrite(self, folder: Path, content: object) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    @pytest.mark.parametrize("content", [[], {}, {"weight_map": []}, {"weight_map": {"a": 1}}, "x", None])
    def test_no_index(self, sharded: Path, content: object) -> None:
        self.rewrite(sharded, content)
        refused(sharded, "model.safetensors.index.json: not a safetensors index")

    def test_no_json(self, sharded: Path) -> None:
        (sharded / "model.safetensors.index.json").write_bytes(b"\xff{")
        refused(sharded, "model.safetensors.index.json: not a safetensors index")

    @pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
    def test_file_elsewhere(self, sharded: Path, name: str) -> None:
        (sharded.parent / "evil.safetensors").write_bytes((sharded / "model-00001-of-00006.safetensors").read_bytes())
        self.rewrite(sharded, {"weight_map": {"embed.weight": name}})
        message = refused(sharded)
        assert "expected plain names" in message or "is missing" in message
        assert name in message

    def test_lost_shard(self, sharded: Path) -> None:
        (sharded / "model-00003-of-00006.safetensors").unlink()
        refused(sharded, "the file model-00003-of-00006.safetensors of model.safetensors.index.json is missing")

    def test_tensor_that_no_file_holds(self, sharded: Path) -> None:
        index = json.loads((sharded / "model.safetensors.index.json").read_text())
        index["weight_map"]["spare"] = "model-00001-of-00006.safetensors"
        self.rewrite(sharded, index)
        refused(sharded, "lists 1 tensors that its files do not hold, spare first")


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


class TestNothingIsExecuted:
    """Each way to offer a pickle is an error, and the pickle is not opened."""

    @pytest.fixture
    def trace(self, tmp_path: Path) -> Path:
        return tmp_path / "trace"

    @pytest.fixture
    def evil(self, trace: Path) -> bytes:
        content = pickle.dumps(Evil(trace))
        pickle.loads(content)
        assert trace.exists(), "the pickle is a working one"
        trace.unlink()
        return content

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
    def test_beside_nothing(self, folder: Path, evil: bytes, trace: Path, name: str) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(evil)
        refused(folder, f"{name} cannot be used: only safetensors files are read")
        assert not trace.exists()

    def test_under_another_name(self, folder: Path, evil: bytes, trace: Path) -> None:
        (folder / "model.safetensors").write_bytes(evil)
        refused(folder, "not a readable safetensors file")
        assert not trace.exists()

    def test_in_the_index(self, folder: Path, evil: bytes, trace: Path) -> None:
        (folder / "evil.bin").write_bytes(evil)
        index = {"weight_map": {"embed.weight": "evil.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        refused(folder, "evil.bin: not a readable safetensors file")
        assert not trace.exists()

    def test_code_in_the_folder(self, folder: Path, trace: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        values["auto_map"] = {"AutoModel": "modeling.Model"}
        (folder / "config.json").write_text(json.dumps(values))
        (folder / "modeling.py").write_text(f"open({str(trace)!r}, 'w')")
        load(folder, "exact")
        assert not trace.exists()
