"""`wavefold run --batch-invariant`: the same bits however tokens arrive."""

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


class TestBatchInvariant:
    @pytest.mark.parametrize("arithmetic", ["released", "exact"])
    def test_one_pass_and_token_by_token_give_the_same_bits(
        self, arithmetic: str, config_file: Path, tmp_path: Path
    ) -> None:
        """Without the flag many rows are multiplied in another order than few, and bits differ."""
        config = ModelConfig.from_file(config_file).replace(num_hidden_layers=3, compress_ratios=(0, 4, 128, 0))
        random_checkpoint(config.replace(o_lora_rank=128), tmp_path / "m", 1)
        flags = ["--batch-invariant", "--threads", "1", "--arithmetic", arithmetic, "--dtype", "bfloat16"]
        args = build_parser().parse_args(["run", str(tmp_path / "m"), "-p", "", *flags])
        if not native.available():
            pytest.skip("no CPU kernels")
        ids = torch.arange(650) * 7 % 300
        with ops.using(backend="auto"):
            assert self.differing(Session(args), ids) == 0
            args.batch_invariant = False
            assert self.differing(Session(args), ids) > 0, "the test cannot see a difference"

    def differing(self, session: Session, ids: torch.Tensor) -> int:
        """Logits that differ between one pass and token by token; of a row each, as `run` asks for them."""
        model = session.llm.model
        whole, single = (model.new_pool(len(ids)).open() for _ in range(2))
        with torch.no_grad():
            hidden = model.extend(ids, [whole], [len(ids)])
            at_once = torch.cat([model.logits(row[None]) for row in hidden])
            one_by_one = [model.logits(model.extend(id_[None], [single], [1])) for id_ in ids]
        return int((at_once != torch.cat(one_by_one)).sum())

    @pytest.mark.parametrize("flags", [("--arithmetic", "exact"), ("--arithmetic", "released")])
    def test_is_refused_where_it_does_not_hold(self, model: Path, flags: tuple[str, ...], capsys: Capture) -> None:
        """Not in float32, which torch multiplies; nor where a matrix cannot be cut as the kernels need it."""
        with ops.using(backend="auto"):
            assert run(model, "-p", "a", "--batch-invariant", *flags) == 2
        assert "--batch-invariant holds for the CPU kernels alone" in capsys.readouterr().err
