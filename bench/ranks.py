"""A whole model over two ranks on links of several speeds, with and without waves: tokens a second, the same tokens.

    sudo python bench/ranks.py MODEL [--rates 100mbit 1gbit 0]      0: as fast as it goes

Two processes of one thread each in network namespaces, beside one process of one thread: `wavefold run`, a prompt of
random tokens, then decoding. The tokens must be those of one rank, which rounds as several do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from link import PacedLink

from wavefold.bench.circumstances import append, circumstances
from wavefold.cli.plan_ranks import link_rate
from wavefold.config import ModelConfig


def command(args: argparse.Namespace, prompt: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "wavefold", "run", str(args.model), "--tokens", str(prompt), "--max-tokens",
            str(args.decode + 1), "--temperature", "0", "--threads", "1", "--json", "--arithmetic", args.arithmetic,
            "--dtype", "bfloat16", *flags]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rates", nargs="+", default=["100mbit", "1gbit", "0"])
    parser.add_argument("--waves", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, default=1024, help="tokens (1024)")
    parser.add_argument("--decode", type=int, default=16, help="tokens (16)")
    parser.add_argument("--arithmetic", choices=("exact", "released"), default="exact")
    parser.add_argument("--out", type=Path, default=Path("runs/ranks.jsonl"))
    args = parser.parse_args()
    vocabulary = ModelConfig.from_file(args.model).vocab_size
    link = PacedLink()
    lines = []

    def show(name: str, answer: dict) -> None:
        prompt_rate, rate, size = (
            answer[key] or math.nan for key in ("prefill_tokens_per_s", "decode_tokens_per_s", "weight_bytes")
        )
        print(f"{name:32} prompt {prompt_rate:7.1f} tokens/s   decode {rate:6.2f}   weights {size / 1e9:.2f} GB",
              flush=True)  # fmt: skip

    try:
        with tempfile.TemporaryDirectory() as folder:
            prompt = Path(folder) / "prompt.json"
            prompt.write_text(json.dumps([random.Random(0).randrange(vocabulary) for _ in range(args.prompt)]))
            alone = subprocess.run(command(args, prompt), stdout=subprocess.PIPE, text=True, check=True,
                                   env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
            one = json.loads(alone.stdout)
            show("one process", one)
            ranked = subprocess.run(command(args, prompt, "--waves", "1", "--back", "bf16"), stdout=subprocess.PIPE,
                                    text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
            expected = json.loads(ranked.stdout)["tokens"]
            show("one rank", json.loads(ranked.stdout))
            for rate in args.rates:
                link.pace(0 if rate == "0" else 1e9 * link_rate(rate))
                for waves in args.waves:
                    line = json.loads(link.run(command(args, prompt, "--waves", str(waves), "--back", "bf16")))
                    line |= {"rate": rate, "waves": waves, "alone": one, "model": str(args.model.name)}
                    lines.append(line)
                    show(f"two, {rate}, {waves} waves", line)
                    assert line["tokens"] == expected, "ranks, links or waves changed the tokens"
        print(f"all gave the {len(expected)} tokens of one rank")
        append(args.out, [line | circumstances(1) for line in lines])
    finally:
        link.close()


if __name__ == "__main__":
    main()
