"""`wavefold run --activations int8`."""

from pathlib import Path

import pytest
import torch

from tests.cli.running import Capture, run
from wavefold import ops
from wavefold.checkpoint import random_checkpoint
from wavefold.cli.main import build_parser
from wavefold.cli.session import Session
from wavefold.config import ModelConfig
from wavefold.ops import native


def test_batch_invariant_prompts_in_int8(config_file: Path, tmp_path: Path) -> None:
    """One pass and token by token give the same bits, as all products are in int8 then."""
    if not native.available():
        pytest.skip("no CPU kernels")
    config = ModelConfig.from_file(config_file).replace(num_hidden_layers=3, compress_ratios=(0, 4, 128, 0))
    random_checkpoint(config.replace(o_lora_rank=128), tmp_path / "m", 1)
    flags = ["--activations", "int8", "--batch-invariant", "--threads", "1"]
    args = build_parser().parse_args(["run", str(tmp_path / "m"), "-p", "", *flags])
    ids = torch.arange(300) * 7 % 300
    with ops.using(backend="auto"):
        model = Session(args).llm.model
        assert model.runtime.activations == "int8"
        whole, single = (model.new_pool(len(ids)).open() for _ in range(2))
        at_once = model.extend(ids, [whole], [len(ids)])
        one_by_one = torch.cat([model.extend(id_[None], [single], [1]) for id_ in ids])
        assert torch.equal(at_once, one_by_one)
        model.runtime = model.runtime.but(activations="bf16")
        other = model.new_pool(len(ids)).open()
        assert not torch.equal(model.extend(ids, [other], [len(ids)]), at_once)


def test_is_refused_where_kernels_do_not_compute(model: Path, capsys: Capture) -> None:
    with ops.using(backend="auto"):
        assert run(model, "-p", "a", "--activations", "int8", "--arithmetic", "exact") == 2
    assert "--activations int8 is for the CPU kernels alone" in capsys.readouterr().err
