"""Resident memory of a command and of the processes that it starts, sampled while it runs.

    python bench/resident.py [--limit 2.5G] -- torchrun --nproc-per-node 2 -m wavefold run DIR -p TEXT --memory 2.5G

Prints the largest sample of each process that grew above 200 MB, on stderr, with its own peak (VmHWM). Exits with the
command's code; with 1 where a process went above `--limit`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from wavefold.system.sizes import bytes_of, gib

SHOWN = 200 << 20
EVERY_S = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", metavar="SIZE", help="of each process")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    largest: dict[int, int] = defaultdict(int)
    peaks: dict[int, int] = {}
    samples = 0
    command = subprocess.Popen(args.command)
    while command.poll() is None:
        for process in family(command.pid):
            sizes = sizes_of(process)
            largest[process] = max(largest[process], sizes.get("VmRSS", 0))
            peaks[process] = max(peaks.get(process, 0), sizes.get("VmHWM", 0))
        samples += 1
        time.sleep(EVERY_S)
    shown = {process: size for process, size in largest.items() if size > SHOWN}
    for process, size in sorted(shown.items()):
        print(f"process {process}: resident {gib(size)} at most in {samples} samples, {gib(peaks[process])} by its "
              "own count", file=sys.stderr)  # fmt: skip
    above = args.limit is not None and max(peaks.values()) > bytes_of(args.limit)
    return command.returncode or int(above)


def family(process: int) -> list[int]:
    """The process and those below it."""
    below = []
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            below += map(int, thread.read_text().split())
        except OSError:  # it has ended
            continue
    return [process, *(other for child in below for other in family(child))]


def sizes_of(process: int) -> dict[str, int]:
    """Bytes by name in /proc/PROCESS/status; empty once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


if __name__ == "__main__":
    sys.exit(main())
