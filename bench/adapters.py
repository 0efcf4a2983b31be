"""Many adapters over one base: tokens a second of requests each through its own, beside those of the base alone.

    python bench/adapters.py [MODEL] [--requests 32] [--rank 8] [--rounds 5] [--prompt 64] [--new 128] [--out FILE]

Rounds of both alternate in one process; the adapters' A and B are random, float32. Then adapters are added while
requests run: seconds of `LLM.load_adapter`, and the longest step of the runner meanwhile beside the longest without.
Prints a table, and appends a JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from wavefold import LLM, Sampling
from wavefold.bench.circumstances import append, circumstances
from wavefold.checkpoint.adapter import MODULES, shape_of
from wavefold.config import ModelConfig
from wavefold.engine.request import Request


def write_adapter(folder: Path, config: ModelConfig, seed: int, rank: int) -> Path:
    """Writes an adapter of random matrices beside all that may be adapted. Returns its folder."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config.num_hidden_layers):
        for module, place in MODULES.items():
            rows, columns = shape_of(place, config)
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            a, b = torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator)
            tensors |= {f"{prefix}.lora_A.weight": a * columns**-0.5, f"{prefix}.lora_B.weight": b * 0.05}
    save_file(tensors, folder / "adapter_model.safetensors")
    options = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(options))
    return folder


class Bench:
    """Requests of one length over one base, which never end early."""

    def __init__(self, llm: LLM, args: argparse.Namespace):
        self.llm, self.args = llm, args
        generator = torch.Generator().manual_seed(0)
        vocab_size = llm.model.config.vocab_size
        self.prompts = torch.randint(3, vocab_size, (args.requests, args.prompt), generator=generator).tolist()

    def requests(self, names: list[str | None]) -> list[Request]:
        sampling = Sampling(max_tokens=self.args.new, temperature=0)
        resolved = replace(self.llm.resolved(sampling), eos_ids=(), other_ids=())
        adapters = [self.llm.requests.adapters.get(name) for name in names]
        pairs = zip(self.prompts, adapters, strict=True)
        return [self.llm.requests.one(prompt, sampling, resolved, 0, adapter) for prompt, adapter in pairs]

    def run(self, names: list[str | None]) -> tuple[float, list[float]]:
        """Returns tokens a second of steps that decode alone, and the seconds of each of them."""
        requests = self.requests(names)
        runner = self.llm.add(requests)
        seconds, tokens = [], 0
        while not runner.idle:
            reads = any(len(request.output) == 0 for request in requests)
            began = time.perf_counter()
            outputs = runner.step()
            if not reads:
                seconds.append(time.perf_counter() - began)
                tokens += sum(len(output.tokens) for output in outputs)
        return tokens / sum(seconds), seconds

    def add_meanwhile(self, folders: list[Path]) -> tuple[list[float], float]:
        """Returns the seconds that each adapter took to be added while requests run, and the longest step then."""
        took: list[float] = []

        def add() -> None:
            for number, folder in enumerate(folders):
                time.sleep(0.05)
                began = time.perf_counter()
                self.llm.load_adapter(f"added {number}", folder)
                took.append(time.perf_counter() - began)

        thread = threading.Thread(target=add)
        thread.start()
        _, steps = self.run([None] * len(self.prompts))
        thread.join()
        return took, max(steps)


def measured(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    with LLM(args.model, width=args.requests, prefix_cache=False, threads=args.threads, memory=args.memory) as llm:
        config = llm.model.config
        folders = [write_adapter(folder / str(n), config, n, args.rank) for n in range(args.requests)]
        names = [str(number) for number in range(args.requests)]
        for name, place in zip(names, folders, strict=True):
            llm.load_adapter(name, place)
        bench, rates = Bench(llm, args), {"base": [], "adapters": []}
        ways = {"base": [None] * args.requests, "adapters": names}
        longest = 0.0
        for number in range(args.rounds + 1):
            for way in sorted(ways, reverse=number % 2 == 0):
                rate, steps = bench.run(ways[way])
                if number:  # the first round warms up
                    rates[way].append(rate)
                    longest = max(longest, max(steps)) if way == "base" else longest
        took, while_adding = bench.add_meanwhile(folders[:8])
        medians = {way: statistics.median(values) for way, values in rates.items()}
        return {
            "model": str(llm.folder.name), "requests": args.requests, "rank": args.rank, "new": args.new,
            "adapter_bytes": llm.requests.adapters.get("0").num_bytes,  # type: ignore[union-attr]
            "tokens_per_s": rates, "ratio": medians["adapters"] / medians["base"],
            "ratios": [a / b for a, b in zip(rates["adapters"], rates["base"], strict=True)],
            "add_s": took, "longest_step_s": longest, "longest_step_while_adding_s": while_adding,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    for name, default in (("requests", 32), ("rank", 8), ("rounds", 5), ("prompt", 64), ("new", 128), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(args, Path(folder))
    table = Table("", "tokens/s (median)", "lowest", "highest")
    for way, rates in figures["tokens_per_s"].items():  # type: ignore[attr-defined]
        table.add_row(way, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}", f"{max(rates):,.0f}")
    console = Console()
    console.print(table)
    ratios = figures["ratios"]
    console.print(f"adapters over base: {figures['ratio']:.3f} ({min(ratios):.3f} to {max(ratios):.3f})")  # type: ignore
    console.print(
        f"adding one: {1e3 * max(figures['add_s']):.1f} ms at most; longest step {1e3 * figures['longest_step_s']:.1f} "  # type: ignore
        f"ms, while adding {1e3 * figures['longest_step_while_adding_s']:.1f} ms"  # type: ignore
    )
    if args.out:
        append(args.out, [circumstances(args.rounds) | figures])


if __name__ == "__main__":
    main()
