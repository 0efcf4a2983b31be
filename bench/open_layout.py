"""Time of `wavefold.load` for a checkpoint of full size, and the memory that it takes.

    python bench/open_layout.py [flash pro] [--runs 5]

The folders are of full size and take no room: real headers, and files of holes. Each run is a fresh process; importing
torch is not counted. Prints a table: the best run, all of them, resident memory before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wavefold.config import ModelConfig

ROOT = Path(__file__).resolve().parents[1]
OPEN = """
import json, sys, time, warnings
import psutil, torch
import wavefold.checkpoint
warnings.simplefilter("ignore")
before = psutil.Process().memory_info().rss
began = time.perf_counter()
model = wavefold.checkpoint.load(sys.argv[1])
seconds = time.perf_counter() - began
after = psutil.Process().memory_info().rss
print(json.dumps([seconds, before, after, sum(1 for _ in model.modules())]))
"""


def opened(folder: Path) -> tuple[float, int, int, int]:
    """Seconds, resident bytes before and after, and modules, of one `load` in a fresh process."""
    done = subprocess.run([sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True, check=True)
    seconds, before, after, modules = json.loads(done.stdout)
    return seconds, before, after, modules


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.hollow import write_hollow

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=["flash", "pro"])
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    table = Table("layout", "tensors", "modules", "best s", "runs s", "resident MB before", "after")
    for preset in args.presets:
        with tempfile.TemporaryDirectory() as scratch:
            tensors = write_hollow(ModelConfig.preset(preset), Path(scratch) / preset)
            runs = [opened(Path(scratch) / preset) for _ in range(args.runs)]
        seconds = [run[0] for run in runs]
        before, after = (max(run[place] for run in runs) / 1e6 for place in (1, 2))
        table.add_row(
            preset, f"{tensors:,}", f"{runs[0][3]:,}", f"{min(seconds):.2f}",
            " ".join(f"{s:.2f}" for s in seconds), f"{before:.0f}", f"{after:.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
