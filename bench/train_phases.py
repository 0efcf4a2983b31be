"""Training steps of this tree and of an earlier commit in turns, for `python bench/train_step.py --against`.

    dense 512     sequences of 512 tokens, dense attention, bfloat16
    sparse 1024   of 1,024, sparse attention, FP4 in the loop
    sparse 2048   of 2,048, the same

The preset is nano, as `recipes/nano.py` has it. A turn is four steps of at most 4,096 tokens with Muon, one with
the MTP module. Both trees have the same documents of random ids, the same first weights, and a process for each phase,
whose peak memory is its own.

    python bench/train_phases.py ROOT PHASE THREADS       the process: a line of JSON for each line of its input
"""

from __future__ import annotations

import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from against import ROOT, checkout

PHASES = {"dense 512": 512, "sparse 1024": 1024, "sparse 2048": 2048}
TURN_STEPS = 4
NEVER = 100_000  # steps


def use(root: str) -> None:
    """Makes `wavefold` the package of a tree."""
    # an editable install names its own tree before any path
    sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]
    sys.path.insert(0, root)
    import wavefold

    assert wavefold.__file__ == f"{root}/wavefold/__init__.py", (wavefold.__file__, root)


def trainer_of(phase: str) -> Any:
    """A trainer at the first step of a phase."""
    import numpy as np
    import torch

    from wavefold.data.batches import Batches
    from wavefold.locate import config_of
    from wavefold.train import schedule
    from wavefold.train.recipe import Recipe
    from wavefold.train.start import arithmetic_of, new_model
    from wavefold.train.trainer import Trainer

    late = NEVER - 1 if phase.startswith("dense") else 0
    recipe = Recipe(
        steps=NEVER, length_stages=((0, PHASES[phase]),), dense_steps=late, quantize_from=late, peak_lr=4e-3,
        warmup=100, decay_steps=1000, eval_every=NEVER, save_every=NEVER,
    )  # fmt: skip
    random = np.random.default_rng(0)
    lengths = random.lognormal(8, 1, 400).clip(50, 40_000).astype(int)
    batches = Batches(
        [random.integers(5, 3072, length) for length in lengths], 0, functools.partial(schedule.sizes, recipe)
    )
    model = new_model(config_of("nano"), arithmetic_of(recipe, torch.bfloat16), 0)
    return Trainer(model, batches, [], recipe, Path(tempfile.mkdtemp()))


def work(root: str, phase: str, threads: int) -> None:
    use(root)
    import torch

    torch.set_num_threads(threads)
    trainer = trainer_of(phase)

    def turn() -> dict[str, float]:
        began, tokens = time.perf_counter(), 0
        for _ in range(TURN_STEPS):
            tokens += trainer._train_step()["tokens"]
            trainer.step += 1
        return {"seconds": time.perf_counter() - began, "tokens": tokens}

    turn()
    print("ready", flush=True)
    for _ in sys.stdin:
        figures = turn()
        print(json.dumps(figures | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


class Side:
    """A tree's process in a phase."""

    def __init__(self, root: Path, phase: str, threads: int):
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        if root != ROOT:  # it has its own library
            environment.pop("WAVEFOLD_NATIVE", None)
        command = [sys.executable, str(Path(__file__).resolve()), str(root), phase, str(threads)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
        )
        self.samples: list[dict[str, float]] = []

    def turn(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        print("turn", file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("a process ended; see above")
        self.samples.append(json.loads(line))

    def rates(self) -> list[float]:
        return [sample["tokens"] / sample["seconds"] for sample in self.samples]


def compare(revision: str, turns: int, threads: int) -> list[dict[str, Any]]:
    """Prints a table of this tree and a commit, and returns its lines."""
    from wavefold.bench.circumstances import circumstances

    lines = []
    for phase in PHASES:
        sides = [Side(checkout(revision), phase, threads), Side(ROOT, phase, threads)]
        for side in sides:  # neither warms up beside the other's first turn
            assert side.process.stdout is not None and side.process.stdout.readline().strip() == "ready"
        for number in range(turns):
            for side in sides[:: 1 if number % 2 else -1]:
                side.turn()
        peaks = [side.samples[-1]["peak"] for side in sides]
        for side in sides:
            side.process.communicate()
        earlier, now = (side.rates() for side in sides)
        ratios = [b / a for a, b in zip(earlier, now, strict=True)]
        print(
            f"{phase:12} {statistics.median(earlier):6.0f} -> {statistics.median(now):6.0f} tokens/s   "
            f"{statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})   "
            f"peak memory {peaks[0] / 1e9:.2f} -> {peaks[1] / 1e9:.2f} GB", flush=True,
        )  # fmt: skip
        lines.append({"bench": "train_phases", "phase": phase, "revision": revision, "tokens_per_s": [earlier, now],
                      "peak_bytes": peaks, **circumstances(turns)})  # fmt: skip
    return lines


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
