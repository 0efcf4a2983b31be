"""A training step beside transformers' on the same model, or beside an earlier commit's: tokens a second, peak memory.

    python bench/train_step.py [MODEL]              4 sequences of 1,024 tokens; forward, backward, AdamW
    python bench/train_step.py --against COMMIT     the nano preset in three phases of training (`train_phases.py`)

Each in a process of its own, turns alternating, quantization and MTP off in both: ours with float32 masters and
bfloat16 activations, transformers in bfloat16 throughout. In both, torch's threads sleep while they wait, as the
command line has it (OMP_WAIT_POLICY=PASSIVE): those that spin take cores from the other side.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from wavefold.bench.circumstances import append, circumstances
from wavefold.locate import DEFAULT_MODEL

BATCH, LENGTH = 4, 1024


def ours(folder: Path, steps: int) -> list[float]:
    """Seconds of each step."""
    from wavefold.data.batches import pack
    from wavefold.model.training_pass import TrainingPass
    from wavefold.ops import Arithmetic
    from wavefold.train.fake_quant import Masters
    from wavefold.train.objective import Objective
    from wavefold.train.optimizer import Optimizer
    from wavefold.train.recipe import Recipe
    from wavefold.train.sharding import Shards
    from wavefold.train.start import model_from
    from wavefold.waves.group import Group

    model = model_from(folder, Arithmetic("exact", torch.bfloat16))
    objective = Objective(model, Masters(model, "none"))
    shards = Shards(objective, Group())
    optimizer = Optimizer(shards, model, Recipe(optimizer="adamw", quantize="none"))
    ids = torch.randint(0, model.config.vocab_size, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    packed = pack([row.numpy() for row in ids])

    def step() -> float:
        began = time.perf_counter()
        shards.drop_gradients()
        losses = objective(packed, False, TrainingPass("sparse"))
        ((losses.next_token + losses.index) / len(packed.tokens)).backward()
        shards.collect_gradients()
        shards.clip_(1.0)
        optimizer.step(1e-4)
        return time.perf_counter() - began

    return turns(step, steps)


def theirs(folder: Path, steps: int) -> list[float]:
    """Seconds of each step."""
    import transformers

    model = transformers.DeepseekV4ForCausalLM.from_pretrained(
        folder, quantization_config=transformers.FineGrainedFP8Config(dequantize=True), dtype=torch.bfloat16,
        attn_implementation="eager",
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    vocab = model.config.vocab_size
    ids = torch.randint(0, vocab, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return time.perf_counter() - began

    return turns(step, steps)


def turns(step, steps: int) -> list[float]:  # type: ignore[no-untyped-def]
    """A step to warm up, then one for each line on the standard input."""
    seconds = [step()]
    print("ready", flush=True)
    for _ in range(steps):
        sys.stdin.readline()
        seconds.append(step())
        print(seconds[-1], flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=DEFAULT_MODEL, help="a checkpoint (the shipped one)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each (5)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/train_step.jsonl"))
    parser.add_argument("--against", metavar="COMMIT", help="beside this commit's step, instead of transformers'")
    parser.add_argument("--who", choices=("ours", "theirs"), help="one side, in this process")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.against:
        from train_phases import compare

        append(args.out, compare(args.against, args.steps, args.threads))
        return
    if args.who:
        (ours if args.who == "ours" else theirs)(args.model, args.steps)
        return
    sides = {}
    for who in ("ours", "theirs"):
        command = [sys.executable, __file__, str(args.model), "--who", who, "--steps", str(args.steps),
                   "--threads", str(args.threads)]  # fmt: skip
        sides[who] = subprocess.Popen(
            command, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert sides[who].stdout.readline().strip() == "ready", f"{who} did not begin"  # type: ignore[union-attr]
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(args.steps):
        for who, side in sides.items():
            side.stdin.write("\n")  # type: ignore[union-attr]
            side.stdin.flush()  # type: ignore[union-attr]
            seconds[who].append(float(side.stdout.readline()))  # type: ignore[union-attr]
    memory = {who: int(side.communicate()[0]) for who, side in sides.items()}
    rates = {who: BATCH * LENGTH / statistics.median(times) for who, times in seconds.items()}
    for who in sides:
        low, high = (BATCH * LENGTH / edge(seconds[who]) for edge in (max, min))
        print(f"{who:8} {rates[who]:7.0f} tokens/s ({low:.0f} to {high:.0f})   peak memory {memory[who] / 1e9:.2f} GB")
    print(f"ours / theirs: {rates['ours'] / rates['theirs']:.2f}; memory {memory['ours'] / memory['theirs']:.2f}")
    append(args.out, [{"bench": "train_step", "model": str(args.model), "tokens_per_s": rates, "seconds": seconds,
                       "peak_bytes": memory, **circumstances(args.steps)}])  # fmt: skip


if __name__ == "__main__":
    main()
