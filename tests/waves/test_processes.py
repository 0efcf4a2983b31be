"""Processes over gloo: the bits of logical ranks, and an error that names a rank that died."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from tests.processes import torchrun
from tests.waves.test_experts import DIM, EXPERTS, inputs, over_ranks
from wavefold.waves.exchange import Settings
from wavefold.waves.schedule import Waves

pytestmark = pytest.mark.dist

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, size: int, *facts: str) -> subprocess.CompletedProcess[str]:
    command, environment = torchrun(size, str(ROOT / "tests/waves/rank.py"), str(folder), *facts)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment |= {"PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize(("size", "waves", "wire", "back"), [(2, 3, "fp8", "bf16"), (4, 2, "fp32", "fp32")])
def test_processes_give_the_bits_of_one(tmp_path: Path, size: int, waves: int, wire: str, back: str) -> None:
    done = start(tmp_path, size, str(waves), wire, back)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    grad = torch.randn(24, DIM, generator=torch.Generator().manual_seed(0))
    one = over_ranks(Settings(Waves(EXPERTS), wire, back), [24], inputs(24, 2), grad)  # type: ignore[arg-type]
    for i in range(3):
        assert torch.equal(torch.cat([some[i] for some in found]), one[i])
    for some in found:
        for e, grads in some[3].items():
            assert torch.equal(torch.cat([g.flatten() for g in grads]), one[3 + e])


def test_a_rank_that_dies_is_named(tmp_path: Path) -> None:
    done = start(tmp_path, 2, "2", "fp32", "fp32", "die")
    assert done.returncode != 0
    told = tmp_path / "lost0"
    assert told.exists(), done.stderr[-3000:]
    seconds, message = told.read_text().split(" ", 1)
    assert float(seconds) < 10 and message.startswith("rank 1 is gone")


def test_a_process_that_fails_leaves_its_group() -> None:
    """One that ends inside a gloo group is aborted about once in twenty times: torch 2.13.0, "terminate called"."""
    program = """
        import atexit
        import torch.distributed as dist
        from wavefold.waves.group import leave_at_exit
        atexit.register(lambda: print("in a group:", dist.is_initialized()))  # runs last
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        leave_at_exit()
        raise SystemExit(2)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "in a group: False\n"), result.stderr
