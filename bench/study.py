"""Questions about training, each answered by runs of a small model on the standard library, several seeds each.

    python bench/study.py qat       bfloat16, bfloat16 quantized afterwards, quantized in training; AdamW
    python bench/study.py qat-muon  the same with Muon
    python bench/study.py hybrid    hybrid attention beside dense attention of equal parameters
    python bench/study.py muon      Muon beside AdamW, the learning rate of both tuned on one seed

Prints a table, appends a JSON line for each run to --out, and draws the curves. Two runs at a time, one thread each.
Runs that --out already has are not run again.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import torch

from wavefold.bench.circumstances import append, circumstances
from wavefold.chat import Tokenizer
from wavefold.config import ModelConfig
from wavefold.data.batches import Batches, InMemory, PackedBatch, fixed_batches
from wavefold.data.corpus import Corpus, load_corpus
from wavefold.drawing import save_figure
from wavefold.locate import DEFAULT_MODEL
from wavefold.model.official import official_tensors
from wavefold.ops import Arithmetic
from wavefold.train import schedule
from wavefold.train.fake_quant import Masters
from wavefold.train.objective import Objective, captured, evaluate
from wavefold.train.recipe import Recipe
from wavefold.train.start import arithmetic_of, new_model
from wavefold.train.trainer import Trainer

SMALL = ModelConfig.preset("nano").replace(
    hidden_size=128, moe_intermediate_size=64, num_attention_heads=2, head_dim=128, qk_rope_head_dim=32, q_lora_rank=96,
    o_groups=2, o_lora_rank=64, index_n_heads=4, index_head_dim=32, index_topk=32, n_routed_experts=8,
    num_experts_per_tok=2, num_hash_layers=1, num_nextn_predict_layers=0, compress_ratios=(0, 4, 128, 4),
)  # fmt: skip
SMALLEST = SMALL.replace(
    hidden_size=64, moe_intermediate_size=32, head_dim=64, qk_rope_head_dim=16, q_lora_rank=64, o_lora_rank=32,
    num_hidden_layers=3, compress_ratios=(0, 4, 128),
)  # fmt: skip
RECIPE = Recipe(
    steps=500, length_stages=((0, 512),), batch_tokens=2048, peak_lr=6e-3, warmup=40, decay_steps=250,
    eval_every=10_000,
    save_every=10_000, mtp_weight=0.0,
)  # fmt: skip
SEEDS = (0, 1, 2)
NUM_HELD_OUT = 20
"""Batches of 4,096 held-out tokens that a run is judged by."""


def arms(study: str) -> dict[str, tuple[ModelConfig, Recipe]]:
    """The kinds of run of a study, by name, for the first seed."""
    plain = replace(RECIPE, quantize="none")
    if study in ("qat", "qat-muon"):  # few numbers and many steps: only then does rounding cost more than a seed
        long = replace(RECIPE, steps=5000, decay_steps=2500, final_lr=0.02)
        if study == "qat":
            long = replace(long, optimizer="adamw", peak_lr=0.01, weight_decay=0.0)
        return {
            "bfloat16": (SMALLEST, replace(long, quantize="none")),
            "quantized in training": (SMALLEST, replace(long, quantize_from=long.decay_steps)),
        }
    if study == "hybrid":
        everything = SMALL.replace(compress_ratios=(0,) * 4, sliding_window=4096)
        return {
            "hybrid": (SMALL, replace(plain, dense_steps=200, indexer_warmup=30)),
            "dense": (everything.replace(moe_intermediate_size=equal_width(everything)), plain),
        }
    rates = {"muon": (3e-3, 6e-3, 12e-3), "adamw": (1.5e-3, 3e-3, 6e-3)}
    return {
        f"{name} {rate:g}": (SMALL, replace(plain, optimizer=name, peak_lr=rate))  # type: ignore[arg-type]
        for name, peaks in rates.items()
        for rate in peaks
    }


def num_parameters(config: ModelConfig) -> int:
    """Trained numbers of a model."""
    model = new_model(config, Arithmetic("exact"), 0)
    return sum(tensor.numel() for _, tensor in official_tensors(model) if tensor.requires_grad)


def equal_width(config: ModelConfig) -> int:
    """The experts' width at which a model without compressors has as many parameters as the hybrid one."""
    target = num_parameters(SMALL)
    return min(
        range(64, 161, 16), key=lambda width: abs(num_parameters(config.replace(moe_intermediate_size=width)) - target)
    )


def data(corpus: Corpus, seq_len: int) -> tuple[InMemory, list[PackedBatch], float]:
    """Training documents, held-out batches, and nats a token to bits a byte."""
    tokenizer = Tokenizer.load(DEFAULT_MODEL)
    train, held_out = (
        InMemory([tokenizer.encode_document(d.text) for d in documents])
        for documents in (corpus.train, corpus.held_out)
    )
    batches = fixed_batches(held_out, seq_len, 4096)
    num_bytes = sum(len(d.text.encode()) for d in corpus.held_out)
    return train, batches[:NUM_HELD_OUT], sum(held_out.lengths - 1) / math.log(2) / num_bytes


def run(study: str, arm: str, seed: int) -> dict[str, object]:
    """One run: its JSON line."""
    torch.set_num_threads(1)
    config, recipe = arms(study)[arm]
    recipe = replace(recipe, seed=seed)
    train, held_out, scale = data(load_corpus("stdlib"), schedule.seq_len(recipe, recipe.steps))
    model = new_model(config, arithmetic_of(recipe, torch.bfloat16), seed)
    batches = Batches(train, seed, functools.partial(schedule.sizes, recipe))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trainer = Trainer(model, batches, held_out, recipe, Path(folder))
        nats_a_token = trainer.run()
        seconds = time.perf_counter() - began
        log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    line: dict[str, object] = {
        "study": study, "arm": arm, "seed": seed, "bits_a_byte": nats_a_token * scale, "seconds": seconds,
        "parameters": num_parameters(config), "tokens": sum(line["tokens"] for line in log),
        "curve": [round(line["loss"] * scale, 4) for line in log[::10]], "recipe": asdict(recipe),
    }  # fmt: skip
    if study != "hybrid" and recipe.quantize == "none":
        model.arithmetic = Arithmetic("exact", torch.bfloat16, fp4_index=True)
        nats, tokens = evaluate(Objective(model, Masters(model, "fp4")), held_out)
        line["quantized_afterwards"] = nats / tokens * scale
    if study == "hybrid" and arm == "hybrid":
        line["captured"] = captured(trainer.objective, held_out[:16])
    return line


def tuned(lines: list[dict]) -> list[str]:
    """The best arm of each optimizer on the first seed."""
    by_arm = {line["arm"]: line["bits_a_byte"] for line in lines if line["seed"] == SEEDS[0]}
    return [min((arm for arm in by_arm if arm.startswith(name)), key=by_arm.__getitem__) for name in ("muon", "adamw")]


def show(study: str, lines: list[dict]) -> None:
    """Print means and spreads, and the answer to the study's question."""
    by_arm: dict[str, list[float]] = {}
    for line in lines:
        by_arm.setdefault(line["arm"], []).append(line["bits_a_byte"])
        if "quantized_afterwards" in line:
            by_arm.setdefault(f"{line['arm']} quantized afterwards", []).append(line["quantized_afterwards"])
    for arm, values in by_arm.items():
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{arm:32} {statistics.mean(values):.4f} bits a byte   spread {spread:.4f}   {len(values)} seeds")
    if study.startswith("qat") and len(by_arm) == 3:
        names = "bfloat16", "bfloat16 quantized afterwards", "quantized in training"
        for low, after, trained in zip(*(by_arm[name] for name in names), strict=False):
            print(f"gap {after - low:.4f}; quantizing in training closes {(after - trained) / (after - low):.0%}")
        low, after, trained = (statistics.mean(by_arm[name]) for name in names)
        print(f"means: gap {after - low:.4f}, closed by {(after - trained) / (after - low):.0%}")


def draw(lines: list[dict], path: Path) -> None:
    """The training curves of all runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(dict.fromkeys(line["arm"] for line in lines)):
        for line in (line for line in lines if line["arm"] == arm):
            smooth = [statistics.mean(line["curve"][max(0, i - 3) : i + 1]) for i in range(len(line["curve"]))]
            seen = [i * line["tokens"] / len(smooth) / 1e6 for i in range(len(smooth))]
            axes.plot(seen, smooth, color=f"C{number}", linewidth=1, label=arm if line["seed"] == 0 else None)
    axes.set(xlabel="million tokens", ylabel="bits a byte, training", ylim=(1.2, 3.5))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("qat", "qat-muon", "hybrid", "muon"))
    parser.add_argument("--out", type=Path, default=Path("runs/study.jsonl"), help="JSON lines (runs/study.jsonl)")
    parser.add_argument("--plot", type=Path, help="draw the curves to this SVG or PNG")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (2)")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help="one run, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(args.study, args.one[0], int(args.one[1]))))
        return
    known = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    known = [line for line in known if line["study"] == args.study]

    def in_child(job: tuple[str, int]) -> None:
        command = [sys.executable, __file__, args.study, "--one", job[0], str(job[1])]
        line = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        append(args.out, [line | circumstances(1)])
        known.append(line)
        print(f"{job[0]} seed {job[1]}: {line['bits_a_byte']:.4f} bits a byte, {line['seconds']:.0f} s", flush=True)

    def run_all(jobs: Iterable[tuple[str, int]]) -> None:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(
                pool.map(in_child, [job for job in jobs if job not in {(line["arm"], line["seed"]) for line in known}])
            )

    chosen = list(arms(args.study))
    if args.study == "muon":  # the rate is tuned on the first seed; the others run with the best
        run_all((arm, SEEDS[0]) for arm in chosen)
        chosen = tuned(known)
    run_all((arm, seed) for seed, arm in itertools.product(SEEDS, chosen))
    lines = sorted(known, key=lambda line: line["seed"])
    show(args.study, lines)
    if args.plot:
        draw(lines, args.plot)


if __name__ == "__main__":
    main()
