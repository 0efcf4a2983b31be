"""A training step over two ranks on links of several speeds, experts whole in each or sharded, with and without waves.

    sudo python bench/ranks_train.py [--rates 100mbit 1gbit 0] [--waves 0 1 3]      waves 0: experts whole in each

Two processes of one thread each in network namespaces, the nano preset, the same batches for all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from link import PacedLink

from wavefold.bench.circumstances import append, circumstances
from wavefold.cli.plan_ranks import link_rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", default=["100mbit", "1gbit", "0"])
    parser.add_argument("--waves", type=int, nargs="+", default=[0, 1, 3])
    parser.add_argument("--steps", type=int, default=6, help="the first one is not counted (6)")
    parser.add_argument("--tokens", type=int, default=4096, help="of a step (4096)")
    parser.add_argument("--out", type=Path, default=Path("runs/ranks_train.jsonl"))
    args = parser.parse_args()
    link = PacedLink()
    lines = []
    try:
        for rate in args.rates:
            link.pace(0 if rate == "0" else 1e9 * link_rate(rate))
            for waves in args.waves:
                with tempfile.TemporaryDirectory() as folder:
                    link.run([sys.executable, "-m", "wavefold", "train", "--out", folder, "--threads", "1", "--set",
                              f"expert_waves={waves}", f"steps={args.steps}", f"batch_tokens={args.tokens}",
                              "eval_every=1000", "length_stages=((0,1024),)"])  # fmt: skip
                    log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
                steps = [entry for entry in log if "loss" in entry]
                times = [args.tokens / entry["tokens_per_s"] for entry in steps[1:]]
                line = {"rate": rate, "waves": waves, "losses": [entry["loss"] for entry in steps], "step_s": times}
                lines.append(line)
                print(f"{rate:>8} {waves} waves: a step {statistics.median(times):.2f} s ({min(times):.2f} to "
                      f"{max(times):.2f}), first loss {line['losses'][0]:.6f}", flush=True)  # fmt: skip
        append(args.out, [line | circumstances(1) for line in lines])
    finally:
        link.close()


if __name__ == "__main__":
    main()
