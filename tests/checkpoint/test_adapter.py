"""Adapters in PEFT's layout: what PEFT writes computes here what PEFT computes; what would not is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.adapters import write_adapter
from tests.small import SMALL
from tests.transformers_bridge import transformers_model
from wavefold.checkpoint import load, random_checkpoint
from wavefold.checkpoint.adapter import read_adapter
from wavefold.checkpoint.merge import merge
from wavefold.cli.main import main
from wavefold.model import Transformer
from wavefold.model.official import official_owner

CONFIG = SMALL.replace(index_topk=64)
"""All entries are chosen: which of equal scores come first is arbitrary."""
TARGETS = r".*\.(self_attn\.(q_a_proj|q_b_proj|kv_proj|o_b_proj)|mlp\.shared_experts\.(gate_proj|up_proj|down_proj))"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    random_checkpoint(CONFIG, folder, 3)
    return folder


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def hidden_through(model: Transformer, tokens: Tensor, adapter: Any) -> Tensor:
    """Logits of a sequence in a pool, in three passes."""
    sequence = model.new_pool(256).open()
    sequence.adapter = adapter
    parts = [model.extend(part, [sequence], [len(part)]) for part in tokens.split([100, 1, len(tokens) - 101])]
    return model.logits(torch.cat(parts))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize(("use_rslora", "stacks"), [
    (True, []), (False, ["gate_up_proj", "down_proj"]), (False, ["down_proj"]),
])  # fmt: skip
def test_what_peft_writes_computes_what_peft_computes(
    base: Path, use_rslora: bool, stacks: list[str], tmp_path: Path
) -> None:  # fmt: skip
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'wavefold[test]'")
    model = load(base, "exact")
    tokens = torch.randint(0, CONFIG.vocab_size, (150,), generator=torch.Generator().manual_seed(0))
    options = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS, use_rslora=use_rslora, init_lora_weights=False,
        task_type="CAUSAL_LM", target_parameters=[f"mlp.experts.{name}" for name in stacks],
    )  # fmt: skip
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(transformers_model(model), options).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = wrapped(tokens[None]).logits[0]
    adapter = read_adapter(tmp_path / "adapter", CONFIG)
    routed = CONFIG.n_routed_experts * {0: 0, 1: 1, 2: 3}[len(stacks)]  # gate_up_proj is w1 and w3
    assert adapter.name == "adapter" and len(adapter.parts) == (7 + routed) * CONFIG.num_hidden_layers
    value, plain = (hidden_through(model, tokens, through) for through in (adapter, None))
    assert rms(value - expected) / rms(expected) < 1e-4
    assert rms(plain - expected) / rms(expected) > 1e-2  # the adapter does something


def test_unmerged_is_merged_without_rounding(base: Path, tmp_path: Path) -> None:
    adapter = read_adapter(write_adapter(tmp_path / "a", CONFIG, 1, routed=True), CONFIG)
    model, merged = load(base, "exact"), load(base, "exact")
    products = merge(merged, adapter, rounded=False)
    assert all(stored == pytest.approx(norm, rel=1e-4) for stored, norm in products.values())
    tokens = torch.randint(0, CONFIG.vocab_size, (150,), generator=torch.Generator().manual_seed(0))
    one, two = hidden_through(model, tokens, adapter), hidden_through(merged, tokens, None)
    assert rms(one - two) / rms(two) < 1e-5
    sequence = model.new_pool(256).open()
    sequence.adapter = adapter
    model.extend(tokens[:128], [sequence], [128])
    copies = [sequence.fork(), sequence.pool.open(sequence.snapshot())]
    assert [copy.adapter for copy in copies] == [adapter, adapter]


def test_merge_writes_a_checkpoint_and_says_what_is_kept(base: Path, tmp_path: Path, capsys) -> None:
    folder = write_adapter(tmp_path / "cron", CONFIG, 1, routed=True)
    assert main(["merge", str(base), str(folder), str(tmp_path / "out")]) == 0
    assert "57 matrices adapted by cron; " in capsys.readouterr().out
    written, model = load(tmp_path / "out", "exact"), load(base, "exact")
    adapter = read_adapter(folder, CONFIG)
    place = "layers.1.attn.wq_a"
    matrices = [m.get_submodule(place).stored.decode(torch.float32) for m in (written, model)]
    part = adapter.parts[place]
    delta = part.scale * part.up.T @ part.down
    assert rms(matrices[0] - matrices[1] - delta) < 0.1 * rms(delta)
    assert written.get_submodule(place).form == "fp8" and written.get_submodule(place).scale is not None
    name = "layers.1.ffn.experts.3.w3"
    one, two = (official_owner(m, name).stored.decode(torch.float32) for m in (written, model))
    assert rms(one - two) > 0.5 * rms(adapter.parts[name].scale * adapter.parts[name].up.T @ adapter.parts[name].down)
    assert main(["merge", str(base), str(folder), str(tmp_path / "out")]) == 2


def test_a_small_delta_is_lost_in_the_format_of_the_base(base: Path, tmp_path: Path, capsys) -> None:
    adapter = read_adapter(write_adapter(tmp_path / "a", CONFIG, 1, size=1e-5), CONFIG)
    products = merge(load(base, "exact"), adapter)
    assert sum(stored for stored, _ in products.values()) < 0.5 * sum(norm for _, norm in products.values())
    folder = write_adapter(tmp_path / "b", CONFIG, 1, size=1e-5)
    assert main(["merge", str(base), str(folder), str(tmp_path / "out")]) == 0
    assert "of the adapters' delta in the merged model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type = IA3 is not allowed; expected LORA"),
        ({"use_dora": True}, "use_dora = True is not allowed"),
        ({"bias": "all"}, "bias = all is not allowed; expected none"),
        ({"alpha_pattern": {"q_a_proj": 2}}, "alpha_pattern = .* is not allowed"),
        ({"rank_pattern": {"q_a_proj": 2}}, "rank_pattern = .* is not allowed"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = .* is not allowed"),
        ({"layer_replication": [[0, 2]]}, "layer_replication = .* is not allowed"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True is not allowed"),
        ({"lora_bias": True}, "lora_bias = True is not allowed"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = pissa is not allowed"),
        ({"an_option_of_tomorrow": 1}, "an_option_of_tomorrow = 1 is not allowed"),
        ({"r": 0}, "r = 0 is not allowed; expected a whole number from 1 to 512"),
        ({"r": True}, "r = True is not allowed"),
        ({"r": 8}, r"is \[4, \d+\] and \[\d+, 4\]; expected \[8, \d+\] and \[\d+, 8\]"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan is not allowed"),
        ({"lora_alpha": 10**400}, "lora_alpha = 10+ is not allowed; expected a number of at most 1,000,000"),
        ({"use_rslora": "yes"}, "use_rslora = yes is not allowed"),
    ],
)
def test_options_that_change_numbers_are_refused_by_name(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:  # fmt: skip
    folder = write_adapter(tmp_path / "a", CONFIG, 1, **options)
    with pytest.raises(ValueError, match=message):
        read_adapter(folder, CONFIG)


def changed(folder: Path, **tensors: Tensor | None) -> None:
    path = folder / "adapter_model.safetensors"
    values: dict[str, Any] = load_file(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in values.items() if tensor is not None}, path)


FIRST = "base_model__model__model__layers__0__self_attn__q_a_proj__lora_"


def test_matrices_that_the_base_has_no_place_for_are_refused(tmp_path: Path) -> None:
    def refused(message: str, **tensors: Tensor | None) -> None:
        folder = write_adapter(tmp_path / "a", CONFIG, 1)
        changed(folder, **tensors)
        with pytest.raises(ValueError, match=message):
            read_adapter(folder, CONFIG)

    refused("has no lora_B", **{f"{FIRST}B__weight": None})
    refused(r"is \[4, 65\] and", **{f"{FIRST}A__weight": torch.zeros(4, 65)})
    refused("is of F16 and F32; expected both of", **{f"{FIRST}A__weight": torch.zeros(4, 64).half()})
    refused("values that are not finite", **{f"{FIRST}A__weight": torch.full((4, 64), torch.inf)})
    twice = FIRST.replace("__0__", "__00__")
    refused("layers.00.self_attn.q_a_proj.lora_A.weight is not allowed", **{f"{twice}A__weight": torch.zeros(4, 64)})
    experts = "base_model__model__model__layers__0__mlp__experts"
    stack = {f"{experts}__lora_A__weight": torch.zeros(16, 32), f"{experts}__lora_B__weight": torch.zeros(64, 16)}
    inner = {name.replace("experts__", "experts__base_layer__"): tensor.clone() for name, tensor in stack.items()}
    refused("adapts one stack of experts of layer 0 twice", **stack, **inner)
    refused(r"is \[15, 32\] and \[64, 16\]; expected \[16, 32\]", **{
        **stack, f"{experts}__lora_A__weight": torch.zeros(15, 32),
    })  # fmt: skip
    refused("is not allowed; expected lora_A", base_model__model__lm_head__lora_A__weight=torch.zeros(4, 64))
    deep = FIRST.replace("__0__", "__3__")
    refused("holds an adapter of layers.3.attn.wq_a, and the base has 3 layers", **{
        f"{deep}A__weight": torch.zeros(4, 64), f"{deep}B__weight": torch.zeros(32, 4),
    })  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_that_is_written_over_changes_no_adapter(dtype: torch.dtype, tmp_path: Path) -> None:
    for rank in (1, 4):
        folder = write_adapter(tmp_path / f"{rank}", CONFIG, 1, rank)
        path = folder / "adapter_model.safetensors"
        save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
        adapter = read_adapter(folder, CONFIG)
        before = {name: (part.down.clone(), part.up.clone()) for name, part in adapter.parts.items()}
        with path.open("r+b") as file:  # the same file, not another one in its place
            file.write(b"\xff" * path.stat().st_size)
        for name, part in adapter.parts.items():
            assert torch.equal(part.down, before[name][0]) and torch.equal(part.up, before[name][1])


def test_values_that_bfloat16_has_not_are_refused(tmp_path: Path, base: Path) -> None:
    folder = write_adapter(tmp_path / "a", CONFIG, 1)
    changed(folder, **{f"{FIRST}A__weight": torch.full((4, 64), 3.4e38), f"{FIRST}B__weight": torch.ones(32, 4)})
    with pytest.raises(ValueError, match="values that are not finite in bfloat16"):
        read_adapter(folder, CONFIG, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"what it adds to layers\.0\.attn\.wq_a is too large"):
        merge(load(base, "exact"), read_adapter(folder, CONFIG))


def test_folders_that_hold_no_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        read_adapter(tmp_path, CONFIG)
    folder = write_adapter(tmp_path / "a", CONFIG, 1)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin cannot be used: only safetensors"):
        read_adapter(folder, CONFIG)
    (folder / "adapter_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="is no JSON object"):
        read_adapter(folder, CONFIG)
    folder = write_adapter(tmp_path / "b", CONFIG, 1)
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read_adapter(folder, CONFIG)


def test_digests_tell_adapters_apart(tmp_path: Path) -> None:
    folders = [write_adapter(tmp_path / name, CONFIG, seed) for name, seed in zip("abc", (1, 1, 2), strict=True)]
    one, same, other = (read_adapter(folder, CONFIG) for folder in folders)
    scaled = read_adapter(write_adapter(tmp_path / "d", CONFIG, 1, lora_alpha=8), CONFIG)
    assert one.digest == same.digest and len({one.digest, other.digest, scaled.digest}) == 3
    settings = json.loads((tmp_path / "d" / "adapter_config.json").read_text())
    assert settings["lora_alpha"] == 8 and scaled.parts["layers.0.attn.wkv"].scale == 2
