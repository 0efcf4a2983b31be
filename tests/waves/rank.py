"""One process of tests/waves/test_processes.py: a rank's pass over gloo, its results to a file.

torchrun --nproc-per-node R rank.py FOLDER WAVES WIRE BACK [die]
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from tests.waves.test_experts import DIM, EXPERTS, expert, inputs
from wavefold.waves.exchange import Settings
from wavefold.waves.experts import Pass, wave_experts
from wavefold.waves.schedule import Waves
from wavefold.waves.transport import RankLost, TorchTransport, run_alone

NUM_TOKENS = 24


def main(folder: str, num_waves: str, wire: str, back: str, die: str = "") -> None:
    if die:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, as soon as it finds a rank dead: let this one tell
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    settings = Settings(Waves(EXPERTS, size, int(num_waves)), wire, back)  # type: ignore[arg-type]

    def one_expert(number: int, rows: torch.Tensor, weights: list[torch.Tensor], routes: torch.Tensor) -> torch.Tensor:
        if die and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return expert(number, rows, weights, routes)

    h, weights, ids, experts = inputs(NUM_TOKENS, 2)
    grad = torch.randn(NUM_TOKENS, DIM, generator=torch.Generator().manual_seed(0))
    part = [x.chunk(size)[rank] for x in (h, weights, ids, grad)]
    h, weights = part[0].requires_grad_(), part[1].requires_grad_()
    one = Pass(TorchTransport(), settings, one_expert)
    mine = {e: [w.requires_grad_() for w in experts[e]] for e in one.local}
    began = time.monotonic()
    try:
        out = wave_experts(one, run_alone, h, weights, part[2], mine)
        out.backward(part[3])
    except RankLost as error:
        (Path(folder) / f"lost{rank}").write_text(f"{time.monotonic() - began:.1f} {error}")
        return
    of_experts = {e: [w.grad for w in some] for e, some in mine.items()}
    torch.save((out.detach(), h.grad, weights.grad, of_experts), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
