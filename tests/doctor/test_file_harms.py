"""Harms of a file: each is named to the layer or part, alone where a file can show it, and beside the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import pytest

from tests.doctor import harms
from tests.gguf_files import TINY, rewritten
from tests.small import SMALL
from wavefold import ModelConfig, ops, random_checkpoint
from wavefold.doctor import CHECKS, Finding, Patient, examine
from wavefold.locate import default_model

OF_A_FILE = ("structure", "profile", "tokenizer", "template", "load", "likelihood", "values", "siblings",
             "against", "rope")  # fmt: skip
MADE = default_model()


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint with the shipped one's sizes."""
    folder = tmp_path_factory.mktemp("other") / "model"
    random_checkpoint(ModelConfig.from_file(default_model()), folder, seed=5)
    return folder


def failures(path: Path, against: Path | None) -> list[Finding]:
    patient = Patient(path, against, seconds=1e9)
    return examine(patient, checks=[check for check in CHECKS if check.name in OF_A_FILE]).failures


def tensors(change: harms.Change) -> Callable[[Path], Path]:
    return lambda folder: harms.with_tensors(MADE, folder, change)


HARMS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "scales doubled": (tensors(harms.doubled(2)), "layers.2", "layers.2 experts"),
    "expert swapped": (tensors(harms.swapped(2, 1, 3)), "", "layers.2 expert 3"),
    "router bias zeros": (tensors(harms.zeroed("layers.3.ffn.gate.bias")), "layers.3 router", "layers.3 router"),
    "router bias dropped": (tensors(harms.removed("layers.3.ffn.gate.bias")), "layers.3", "layers.3"),
    "rope base": (lambda folder: harms.with_config(MADE, folder, rope_theta=5e5), "rope_theta", "rope_theta"),
    "indexer top-k": (lambda folder: harms.with_config(MADE, folder, index_topk=64), "index_topk", "index_topk"),
    "window 127": (lambda folder: harms.with_config(MADE, folder, sliding_window=127), "sliding_window",
                   "sliding_window"),
    "merges": (lambda folder: harms.with_json(MADE, folder, "tokenizer.json", harms.merges_shuffled),
               "tokenizer merges", "tokenizer merges"),
    "template": (lambda folder: harms.with_json(MADE, folder, "tokenizer_config.json", harms.without_end_mark),
                 "template end mark", "template end mark"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMS)
def test_named_beside_the_original(name: str, tmp_path: Path) -> None:
    make, _, part = HARMS[name]
    assert part in {finding.part for finding in failures(make(tmp_path / "model"), MADE)}


@pytest.mark.parametrize("name", [name for name, (_, part, _) in HARMS.items() if part])
def test_named_alone(name: str, tmp_path: Path) -> None:
    make, part, _ = HARMS[name]
    assert part in {finding.part for finding in failures(make(tmp_path / "model"), None)}


def test_an_exchanged_expert_is_said_to_be_the_other_one(tmp_path: Path) -> None:
    found = failures(harms.with_tensors(MADE, tmp_path / "model", harms.swapped(0, 2, 3)), MADE)
    assert [finding.part for finding in found] == ["layers.0 expert 2", "layers.0 expert 3"]
    assert "is the other file's layers.0.ffn.experts.3.w1.weight" in found[0].text


def test_doubled_scales_are_said_to_be_doubled(tmp_path: Path) -> None:
    found = failures(harms.with_tensors(MADE, tmp_path / "model", harms.doubled(1)), MADE)
    assert any("2 times the other's" in finding.text for finding in found)
    assert {finding.part.split()[0] for finding in found} == {"layers.1"}


@pytest.mark.parametrize(("name", "part"), [("layers.1.attn.wo_b", "layers.1 attention"), ("head", "head.weight")])
def test_a_tensor_of_another_checkpoint(name: str, part: str, other_model: Path, tmp_path: Path) -> None:
    found = failures(harms.with_tensors(MADE, tmp_path / "model", harms.taken_from(other_model, name)), MADE)
    assert [finding.part for finding in found if finding.check == "against"] == [part]
    assert any("another model's" in finding.text for finding in found)


def test_a_matrix_of_one_expert_alone(tmp_path: Path) -> None:
    """It has another size than its siblings."""
    change = harms.doubled(1, "ffn.experts.2.w1")
    [finding] = failures(harms.with_tensors(MADE, tmp_path / "model", change), None)
    assert (finding.check, finding.part) == ("siblings", "layers.1 expert 2")


def test_a_matrix_of_another_layer(tmp_path: Path) -> None:
    change = harms.taken_from(MADE, "layers.0.attn.wo_b", "layers.3.attn.wo_b")
    [finding] = failures(harms.with_tensors(MADE, tmp_path / "model", change), MADE)
    assert finding.part == "layers.0 attention"
    assert "is the other file's layers.3.attn.wo_b.weight" in finding.text


def test_nan_is_named_to_the_tensor(tmp_path: Path) -> None:
    name = "layers.2.ffn.experts.3.w2.scale"

    def change(of: dict) -> dict:  # type: ignore[type-arg]
        scale = of[name].clone()
        scale.view(-1).view(dtype=harms.torch.uint8)[7] = 255
        return {name: scale}

    found = failures(harms.with_tensors(MADE, tmp_path / "model", change), None)
    assert ("values", "layers.2 expert 3") in {(finding.check, finding.part) for finding in found}


def test_missing_tensors_are_named_to_their_layer_alone(tmp_path: Path) -> None:
    """Layer 1 has nothing to do with layer 10."""
    config = SMALL.replace(num_hidden_layers=11, compress_ratios=(0,) * 12)
    random_checkpoint(config, tmp_path / "whole", seed=3)
    lost = {f"layers.{layer}.attn_norm.weight": None for layer in (1, 10)}
    found = failures(harms.with_tensors(tmp_path / "whole", tmp_path / "model", lambda tensors: lost), None)
    assert [(finding.part, finding.text) for finding in found if finding.check == "structure"] == [
        (f"layers.{layer}", f"1 tensors missing: layers.{layer}.attn_norm.weight") for layer in (1, 10)
    ]


@pytest.mark.parametrize(
    "value",
    [(3, gguf.GGUFValueType.UINT32, None), ("normal", gguf.GGUFValueType.STRING, None),
     (["normal"] * 320, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING)],
    ids=["number", "text", "texts"],
)  # fmt: skip
def test_types_of_tokens_of_another_kind(value: tuple[object, ...], tmp_path: Path) -> None:
    path = rewritten(TINY, tmp_path / "model.gguf", add={"tokenizer.ggml.token_type": value})
    chosen = [check for check in CHECKS if check.name in ("structure", "tokenizer", "template")]
    found = examine(Patient(path, None), checks=chosen).failures
    assert {finding.part for finding in found} == {"tokenizer", "template"}
    assert all(f"{path}: tokenizer.ggml.token_type is of another kind" in finding.text for finding in found)


def test_a_truncated_file(tmp_path: Path) -> None:
    folder = harms.copied(MADE, tmp_path / "model")
    file = folder / "model-00003-of-00007.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    [finding] = failures(folder, None)
    assert finding.part == "files"
    assert file.name in finding.text


def test_a_rope_base_without_a_release_by_likelihood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base of layers with entries; the other one has little effect on this model's text."""
    monkeypatch.setattr("wavefold.doctor.profile.preset_names", list)
    [finding] = failures(harms.with_config(MADE, tmp_path / "model", compress_rope_theta=1e4), None)
    assert (finding.check, finding.part) == ("rope", "compress_rope_theta")
    assert "with 160000" in finding.text


def test_one_changed_byte_beside_the_original(tmp_path: Path) -> None:
    """Of a row that is not among the sampled ones."""
    name = "layers.1.attn.wo_b.weight"

    def change(of: dict) -> dict:  # type: ignore[type-arg]
        tensor = of[name].clone()
        tensor.view(harms.torch.uint8)[1, 5] ^= 1
        return {name: tensor}

    [finding] = failures(harms.with_tensors(MADE, tmp_path / "model", change), MADE)
    assert (finding.check, finding.part) == ("against", "layers.1 attention")
    assert f"{name}: differs from byte " in finding.text


def test_the_card_says_how_much_was_compared(tmp_path: Path) -> None:
    patient = Patient(harms.copied(MADE, tmp_path / "model"), MADE)
    card = examine(patient, checks=[check for check in CHECKS if check.name in ("structure", "against")])
    [finding] = [one for one in card.findings if one.part == "all tensors"]
    assert finding.status == "pass" and " byte by byte" in finding.text


def test_keys_without_numbers_are_named_beside_the_original(tmp_path: Path) -> None:
    sick = harms.with_config(MADE, tmp_path / "model", max_position_embeddings=1 << 19)
    card = examine(Patient(sick, MADE), checks=[check for check in CHECKS if check.name in ("structure", "against")])
    [finding] = [one for one in card.findings if one.part == "configuration"]
    assert finding.status == "pass"
    assert "differs in max_position_embeddings = 524288, 1048576 there" in finding.text
