"""Peak memory and time of a long prefill: a random model of 100 million parameters, each length in a fresh process.

    python bench/prefill_memory.py --tokens 8192 16384 32768 --out runs/prefill_memory.jsonl

The model has every kind of layer (2 SWA, 3 CSA, 3 HCA, and an MTP module) and is memory-mapped from a folder in the
official formats. Peaks are those of the process: interpreter, torch and the touched weights included; "above loaded"
leaves out what it had reached before its first token.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import wavefold
from wavefold import ModelConfig

ROOT = Path(__file__).resolve().parents[1]
MB = 1e6

CONFIG = ModelConfig(
    vocab_size=8192, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, head_dim=512, qk_rope_head_dim=64,
    q_lora_rank=256, o_groups=2, o_lora_rank=256, compress_ratios=(0, 0, 4, 128, 4, 128, 4, 128, 0), index_n_heads=16,
    index_head_dim=128, index_topk=512, n_routed_experts=32, num_experts_per_tok=6, moe_intermediate_size=128,
    num_hash_layers=3, routed_scaling_factor=1.5,
)  # fmt: skip


def peak_bytes() -> int:
    """The largest resident set that this process has had.

    From /proc where there is one: `ru_maxrss` begins with the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def measure(folder: str, arithmetic: str, num_tokens: int) -> dict[str, float | int]:
    """One prefill of random tokens in this process, which should be a fresh one."""
    model = wavefold.load(folder, arithmetic)
    tokens = torch.randint(0, CONFIG.vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(0))
    loaded = peak_bytes()
    pool = model.new_pool(num_tokens)
    sequence = pool.open()
    start, start_cpu = time.perf_counter(), time.process_time()
    model.extend(tokens, [sequence], [num_tokens])
    elapsed, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return {
        "peak_bytes": peak_bytes(),
        "loaded_bytes": loaded,
        "cache_bytes": sequence.cache_bytes,
        "elapsed_s": elapsed,
        "cpu_s": cpu,
    }


def measure_apart(folder: str, arithmetic: str, num_tokens: int) -> dict[str, float | int]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--child", folder, arithmetic, str(num_tokens)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return json.loads(done.stdout)


def circumstances(repeats: int) -> dict[str, object]:
    """What a figure is worth nothing without."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "wavefold"], capture_output=True, text=True).stdout.strip()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    return {
        "hardware": f"{cpu}, {os.cpu_count()} cores",
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit + ("+changes" if changed else ""),
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 16384, 32768], help="prompt lengths")
    parser.add_argument("--arithmetic", nargs="+", default=["exact", "released"], help="exact (float32), released")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; the table has the fastest, the largest")
    parser.add_argument("--out", type=Path, help="file to append one JSON line for each case to")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "ARITHMETIC", "TOKENS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child[0], args.child[1], int(args.child[2]))))
        return

    about = circumstances(args.repeats)
    title = "Prefill, 100M parameters; {hardware}, {num_threads} in use; torch {torch}; {commit}".format(**about)
    table = Table(title=title, box=None, pad_edge=False)
    for name in ("arithmetic", "tokens", "peak MB", "above loaded", "cache MB", "s", "CPU s", "tokens/s"):
        table.add_column(name, justify="left" if name == "arithmetic" else "right")
    with tempfile.TemporaryDirectory() as folder:
        wavefold.init(CONFIG, Path(folder) / "model", seed=0)
        for arithmetic in args.arithmetic:
            for num_tokens in args.tokens:
                runs = [measure_apart(f"{folder}/model", arithmetic, num_tokens) for _ in range(args.repeats)]
                peak, elapsed = max(r["peak_bytes"] for r in runs), min(r["elapsed_s"] for r in runs)
                above = max(r["peak_bytes"] - r["loaded_bytes"] for r in runs)
                table.add_row(
                    arithmetic, f"{num_tokens:,}", f"{peak / MB:,.0f}", f"{above / MB:,.0f}",
                    f"{runs[0]['cache_bytes'] / MB:,.1f}", f"{elapsed:.1f}",
                    f"{min(r['cpu_s'] for r in runs):.1f}", f"{num_tokens / elapsed:,.0f}",
                )  # fmt: skip
                if args.out:
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    line = {"bench": "prefill_memory", "arithmetic": arithmetic, "tokens": num_tokens, "runs": runs}
                    with args.out.open("a") as file:
                        file.write(json.dumps(line | about) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
