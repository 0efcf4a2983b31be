"""The cost model against the report's published ratios, the checkpoints' inventories, and the module tree."""

from __future__ import annotations

import json

import pytest

from wavefold.cache import CacheLayout, packed_records, plain_records
from wavefold.cli.main import main
from wavefold.config import ModelConfig
from wavefold.model import Transformer
from wavefold.model.official import official_tensors
from wavefold.ops import Arithmetic
from wavefold.plan.baseline import v32_decode_flops, v32_prefill_flops
from wavefold.plan.cache import block_bytes, kv_record_bytes, packed, plain, state_bytes
from wavefold.plan.flops import CONVENTIONS, decode_flops, prefill_flops
from wavefold.plan.summary import flops_ratio, plan
from wavefold.plan.tensors import tensor_kinds

PRO, FLASH, NANO = (ModelConfig.preset(name) for name in ("pro", "flash", "nano"))


@pytest.mark.parametrize(
    ("config", "context", "flops", "kv"),
    [
        (PRO, 1_000_000, 27.08, 10.48),
        (FLASH, 1_000_000, 10.18, 7.32),
        (PRO, 2**20, 26.74, 10.48),
        (FLASH, 2**20, 10.10, 7.32),
        (PRO, 4096, 81.5, 12.8),
        (FLASH, 4096, 21.9, 8.9),
        (PRO, 65536, 63.3, 10.6),
        (FLASH, 65536, 18.0, 7.4),
        (PRO, 131072, 52.8, 10.5),
        (FLASH, 131072, 15.7, 7.4),
        (PRO, 262144, 41.9, None),
        (FLASH, 262144, 13.4, None),
        (PRO, 524288, 32.9, None),
        (FLASH, 524288, 11.4, None),
    ],
)
def test_published_ratios_to_v32(config, context, flops, kv):
    one = plan(config, context)
    assert 100 * one.flops_ratio_v32 == pytest.approx(flops, abs=0.05)
    if kv is not None:
        assert 100 * one.kv_ratio_v32 == pytest.approx(kv, abs=0.05)


@pytest.mark.parametrize(
    ("convention", "pro", "flash"),
    [("raw FLOPs", 26.5, 12.2), ("attention counted once", 21.3, 8.5), ("FP4 index scores counted as FP8", 32.4, 13.9)],
)
def test_ratios_under_other_conventions(convention, pro, flash):
    (chosen,) = (c for c in CONVENTIONS if c.name == convention)
    ratios = [100 * flops_ratio(config, 1_000_000, chosen) for config in (PRO, FLASH)]
    assert ratios == pytest.approx([pro, flash], abs=0.05)


def test_parts_in_gigaflops():
    parts = decode_flops(PRO, 1_000_000).weighted(CONVENTIONS[0])
    assert {k: round(v / 1e9, 1) for k, v in parts.items()} == {
        "linear": 101.6, "index": 61.4, "csa": 16.1, "hca": 127.0, "window": 4.1,
    }  # fmt: skip


def test_records_are_584_and_68_bytes():
    assert (packed(FLASH).kv, packed(FLASH).index) == (584, 68)
    assert kv_record_bytes(FLASH.replace(head_dim=128)) == 64 + 128 + 8


def test_cache_of_a_million_tokens():
    sizes = [plan(config, 1_000_000).kv_bytes / 2**30 for config in (PRO, FLASH)]
    assert sizes == pytest.approx([4.69, 3.28], abs=0.005)
    assert 100 * plan(PRO, 1_000_000).kv_ratio_gqa8 == pytest.approx(2.02, abs=0.005)


@pytest.mark.parametrize("config", [FLASH, PRO, NANO], ids=["flash", "pro", "nano"])
def test_inventory_is_the_module_trees(config):
    parameters = [tensor for _, tensor in official_tensors(Transformer(config, Arithmetic("exact")))]
    one = plan(config, 1)
    assert one.num_tensors == len(parameters)
    assert one.weight_bytes == sum(p.numel() * p.element_size() for p in parameters)


def test_active_parameters_by_precision():
    active = {}
    for kind in tensor_kinds(FLASH):
        active[kind.precision] = active.get(kind.precision, 0) + kind.active_values / 1e9
    expected = {"fp8": 5.857, "fp4": 6.493, "bf16": 0.884, "fp32": 0.034}
    assert {k: round(v, 3) for k, v in active.items() if v} == expected


@pytest.mark.parametrize("config", [FLASH, PRO, NANO], ids=["flash", "pro", "nano"])
def test_bytes_are_the_cache_layouts(config):
    import torch

    for sizes, records in (
        (plain(config, 2), plain_records(config, torch.bfloat16)),
        (plain(config, 4), plain_records(config, torch.float32)),
        (packed(config), packed_records(config)),
    ):
        layout = CacheLayout(config, records)
        assert block_bytes(config, sizes) == layout.block_bytes
        assert state_bytes(config, sizes) == layout.state_bytes


@pytest.mark.parametrize("context", [0, -5, 2**20 + 1])
def test_a_context_that_the_model_has_not_is_refused(context):
    with pytest.raises(ValueError, match=f"context = {context} is not allowed; expected 1 to 1048576"):
        plan(FLASH, context)


def test_command_prints_json_and_tables(capsys):
    assert main(["plan", "flash", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["num_tensors"] == 69187 and facts["weight_bytes"] == 159609485896
    assert {"params", "active_params", "flops_per_token", "flops_ratio_v32", "kv_bytes", "kv_ratio_v32",
            "state_bytes"} <= set(facts)  # fmt: skip
    assert main(["plan", "pro"]) == 0
    assert "27.08 %" in capsys.readouterr().out
    assert main(["plan", "nano", "--context", "400", "--count"]) == 0
    assert "outside the formulas" in capsys.readouterr().out


@pytest.mark.parametrize("num_tokens", [1, 3, 127, 128, 300, 5000])
def test_a_prompts_mean_is_the_mean_of_its_tokens(num_tokens):
    """Summed token by token; the head, which only a prompt's last token meets, apart."""
    config = NANO.replace(index_topk=200)
    tokens = [decode_flops(config, n) for n in range(1, num_tokens + 1)]
    mean = prefill_flops(config, num_tokens)
    assert mean.index == pytest.approx(sum(token.index for token in tokens) / num_tokens)
    for part in ("csa", "hca", "window"):
        assert mean.attention[part] == pytest.approx(sum(token.attention[part] for token in tokens) / num_tokens)
    head = 2 * config.vocab_size * config.hidden_size
    assert mean.linear["bf16"] == pytest.approx(tokens[0].linear["bf16"] - head + head / num_tokens)
    assert mean.linear["fp8"] == tokens[0].linear["fp8"]
    theirs = [v32_decode_flops(n) for n in range(1, num_tokens + 1)]
    mean = v32_prefill_flops(num_tokens)
    sums = [sum(values) for values in zip(*((t.index, t.attention["sparse"]) for t in theirs), strict=True)]
    assert (mean.index, mean.attention["sparse"]) == pytest.approx([total / num_tokens for total in sums])


@pytest.mark.parametrize(("suffix", "begins"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_figure(tmp_path, suffix, begins):
    path = tmp_path / f"course{suffix}"
    assert main(["plan", "flash", "--plot", str(path), "--json"]) == 0
    assert path.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("name", "says"), [("course.gif", "must end in .svg or .png"), ("none/course.svg", "no folder")]
)
def test_a_figure_that_cannot_be_written_is_refused_first(tmp_path, name, says, capsys):
    assert main(["plan", "flash", "--plot", str(tmp_path / name)]) == 2
    out = capsys.readouterr()
    assert says in out.err and not out.out
