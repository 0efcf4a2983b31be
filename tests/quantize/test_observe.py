"""Importance of a text, against sums from the model's plain modules; interruption; llama.cpp's file of it."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import load
from wavefold.model import Transformer
from wavefold.quant import Weight
from wavefold.quantize.importance import Importance, is_importance
from wavefold.quantize.observe import NOISE, observe, with_noise

IDS = list(range(40, 140))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("models") / "small")


def exact(folder: Path) -> Transformer:
    return load(folder, "exact", torch.float32)


def plain_sums(model: Transformer, ids: list[int]) -> dict[str, Tensor]:
    """The sums by the definition: every expert for every token, in float64, and zero where it was not chosen."""
    config = model.config
    sums = Importance.empty(config)
    parts = {name: getattr(sums, name).double() for name in ("h", "inner", "tokens", "norms")}
    inputs: dict[int, tuple[Tensor, Tensor]] = {}
    hooks = [
        block.ffn.gate.register_forward_hook(
            lambda module, args, out, layer=block.ffn.layer: inputs.__setitem__(layer, (args[0], out))
        )
        for block in model.layers
    ]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    for layer, (h, (weights, chosen)) in inputs.items():
        for expert in range(config.n_routed_experts):
            route = (weights * (chosen == expert)).sum(1, keepdim=True).double()
            x = h.double()[route[:, 0] > 0]
            w1, w2, w3 = (w.decode(torch.float32).double() for w in model.experts.store.stored(layer, expert))
            gate, up = (
                (x @ w1.T).clamp(max=config.swiglu_limit),
                (x @ w3.T).clamp(-config.swiglu_limit, config.swiglu_limit),
            )
            inner = F.silu(gate) * up * route[route[:, 0] > 0]
            parts["h"][layer, expert] = x.square().sum(0)
            parts["inner"][layer, expert] = inner.square().sum(0)
            parts["tokens"][layer, expert] = len(x)
            parts["norms"][layer, expert] = (inner @ w2.T).norm(dim=1).sum()
    return parts


def test_sums_are_those_of_the_definition(folder: Path, tmp_path: Path) -> None:
    found = observe(exact(folder), IDS, tmp_path / "i", sensitivity_tokens=0)
    for name, expected in plain_sums(exact(folder), IDS).items():
        torch.testing.assert_close(getattr(found, name).double(), expected, rtol=2e-4, atol=1e-12, msg=name)
    assert not found.sensitivity.any()


def test_moments_are_products_of_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL_WITH_TEXT.replace(hidden_size=256, moe_intermediate_size=512)
    folder = small_model(tmp_path / "wide", config)
    found = observe(exact(folder), IDS, tmp_path / "i", sensitivity_tokens=0)
    layers, experts = config.num_hidden_layers, config.n_routed_experts
    assert found.h_moments.shape == (layers, experts, 1, 256, 256)
    assert found.inner_moments.shape == (layers, experts, 2, 256, 256)
    assert torch.equal(found.h_moments, found.h_moments.mT)
    for sums, moments in ((found.h, found.h_moments), (found.inner, found.inner_moments)):
        torch.testing.assert_close(moments.diagonal(dim1=3, dim2=4).flatten(2), sums, rtol=1e-4, atol=1e-9)
    assert (Importance.load(tmp_path / "i", config).moments(1, 2, "w2") * found.tokens[1, 2].clamp(min=1)).allclose(
        found.inner_moments[1, 2]
    )
    monkeypatch.setattr("wavefold.quantize.importance.MOST_MOMENT_BYTES", 4 * layers * 256 * 256)
    small = observe(exact(folder), IDS, tmp_path / "small", sensitivity_tokens=0)
    torch.testing.assert_close(small.h_moments, found.h_moments.sum(1, keepdim=True), rtol=1e-4, atol=1e-4)
    assert small.moments(0, 0, "w2") is None


def test_the_model_computes_as_before(folder: Path, tmp_path: Path) -> None:
    model, tokens = load(folder), torch.tensor([IDS])
    before = model(tokens)
    observe(model, IDS, tmp_path / "i", 32, sensitivity_tokens=0)
    assert torch.equal(model(tokens), before)


def test_an_interrupted_pass_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = observe(exact(folder), IDS, tmp_path / "whole", 16)
    monkeypatch.setattr("wavefold.quantize.observe.SAVE_S", 0)

    def interrupt(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    path, counts = tmp_path / "part", []
    with pytest.raises(KeyboardInterrupt):
        observe(exact(folder), IDS, path, 16, interrupt)
    assert Importance.load(path, exact(folder).config).notes["chunks"] == "2"
    again = observe(exact(folder), IDS, path, 16, lambda done, of: counts.append(done))
    assert counts[0] == 3
    for name in ("h", "inner", "tokens", "norms", "sensitivity"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    assert (whole.sensitivity > 0).any()
    assert is_importance(path) and not is_importance(folder / "config.json")


def test_noise_is_that_of_one_matrix() -> None:
    """Products are off by x N for one N: what is off adds up as tokens do, and by rows as rows are large."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(512, 48, generator=generator) * torch.tensor([1.0, 3.0]).repeat(256)[:, None]
    tokens, mixed = torch.randn(48, 48, generator=generator), torch.randn(9, 48, generator=generator)
    x = torch.cat([tokens, mixed @ tokens])
    y = x @ rows.T
    off = with_noise(y, x, Weight.of(rows), 1) - y
    assert abs(float(off.norm() / y.norm()) - NOISE) < 1e-4
    torch.testing.assert_close(off[48:], mixed @ off[:48], rtol=1e-3, atol=1e-3 * float(off.std()))
    of_matrix = torch.linalg.solve(tokens.double(), off[:48].double())
    small, large = of_matrix[:, ::2].std(), of_matrix[:, 1::2].std()
    assert 2.9 < float(large / small) < 3.1
    assert 0.95 < float(small / (NOISE * rows[::2].std())) < 1.05
    torch.testing.assert_close(with_noise(y, x, Weight.of(rows), 1) - y, off)


def test_sensitivity_is_measured_in_float32(folder: Path, tmp_path: Path) -> None:
    """Roundings of bfloat16 move logits as much as noise does: they are not in it, whatever the model computes in."""
    model = load(folder)
    found = observe(model, IDS, tmp_path / "released").sensitivity
    assert model.arithmetic.released and model.experts.arithmetic.released
    assert found.shape == (model.config.num_hidden_layers, 3) and (found > 0).all()
    assert torch.equal(found, observe(exact(folder), IDS, tmp_path / "exact").sensitivity)


def test_files_of_another_text_or_model_are_refused(folder: Path, tmp_path: Path) -> None:
    model, path = exact(folder), tmp_path / "i"
    observe(model, IDS, path, 64, sensitivity_tokens=0)
    with pytest.raises(ValueError, match="of another text or other chunks"):
        observe(model, IDS[1:], path, 64, sensitivity_tokens=0)
    with pytest.raises(ValueError, match=r"h is torch.float32 \[3, 4, 64\]; this model needs .*\[3, 8, 64\]"):
        Importance.load(path, model.config.replace(n_routed_experts=8))
    with pytest.raises(ValueError, match="not a readable importance file"):
        Importance.load(folder / "config.json", model.config)
    with pytest.raises(ValueError, match="no tokens"):
        observe(model, [], path)


def test_llama_cpp_s_file(folder: Path, tmp_path: Path) -> None:
    importance = observe(exact(folder), IDS, tmp_path / "i", 64, sensitivity_tokens=0)
    importance.save_imatrix(tmp_path / "i.gguf")
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.chunk_count"].contents() == 2
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == 3 * 3 * 2
    assert (tensors["blk.1.ffn_down_exps.weight.in_sum2"] == importance.inner[1].numpy()).all()
    assert (tensors["blk.2.ffn_up_exps.weight.in_sum2"] == importance.h[2].numpy()).all()
    assert (tensors["blk.2.ffn_gate_exps.weight.counts"][:, 0] == importance.tokens[2].numpy()).all()
