"""Which model is worth more: nine measures of each, the same cases for all, and a verdict on each against the first.

    python bench/worth.py [OLD [NEW ...]] [--packages NAME] [--work worth.work] [--out FILE.jsonl] [--samples FILE.md]

    held_out     bits a byte of held-out files of --data             completions  200 functions x 5 seeds that parse
    packages     the same of --packages, a corpus or folder          next_lines   2,000 exact next lines, greedy
    holes        500 holes filled exactly, lines and parts of lines  rewrites     300 changes, checked by `ast`
    stops        200 answers that end by themselves                  loops        500 continuations that repeat
    drafts       MTP's guesses that are right, greedy, depth 1

Standard errors stand beside, over cases (over files, over functions); a difference is that of pairs. Answers are kept
in --work as they are made, and a run that was killed goes on there. Prints the table and a line for each new model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from wavefold.bench.circumstances import append, circumstances
from wavefold.data.corpus import load_corpus
from wavefold.quality.run import minutes
from wavefold.quality.settings import Settings
from wavefold.quality.worth import table
from wavefold.quality.worth.asked import Measure
from wavefold.quality.worth.plan import NAMES, Counts, planned
from wavefold.quality.worth.run import Worth, measure
from wavefold.quality.worth.samples import samples

SAY_EVERY_S = 60


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", metavar="MODEL", help="the old one first (none: what ships)")
    parser.add_argument("--data", default="stdlib", help="a corpus, whose held-out files make all cases")
    parser.add_argument("--packages", help="another corpus or folder, for held-out bits a byte alone "
                        "('packages': those of the list, after wavefold data fetch)")  # fmt: skip
    parser.add_argument("--measures", default=",".join(NAMES), metavar="NAME,...", help="some of the nine")
    parser.add_argument("--cases", type=int, help="of each measure, and little text: a look, no measurement")
    parser.add_argument("--work", type=Path, default=Path("worth.work"), help="a folder that keeps answers")
    parser.add_argument("--out", type=Path, help="a file to append JSON lines to")
    parser.add_argument("--samples", type=Path, help="a Markdown file for 30 samples that nobody selected")
    parser.add_argument("--arithmetic", default="released")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of the CPU (default: one a core)")
    return parser.parse_args()


def measured(args: argparse.Namespace, measures: list[Measure]) -> list[Worth]:
    """Measures the models, one after another, with a bar or a line a minute."""
    settings, worths = Settings(seed=args.seed, arithmetic=args.arithmetic), []
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    terminal = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as shown:
        for path in args.models or [None]:
            task, last = shown.add_task(str(path), total=1.0), [0.0]

            def told(name: str, share: float, left: float, task=task, last=last, path=path) -> None:
                text = f"{path or 'the model that ships'}: {name}, about {minutes(left)} left"
                shown.update(task, completed=share, description=text)
                if not terminal and time.monotonic() - last[0] > SAY_EVERY_S:
                    last[0] = time.monotonic()
                    print(f"{share:4.0%} {text}", file=sys.stderr, flush=True)

            worths.append(measure(path, measures, args.work, settings, told))
    return worths


def main() -> None:
    args = parsed()
    if args.threads:
        torch.set_num_threads(args.threads)
    counts = Counts() if args.cases is None else Counts.of(args.cases)
    try:
        packages = None if args.packages is None else load_corpus(args.packages)
        measures = planned(load_corpus(args.data), packages, counts, args.seed, args.measures.split(","))
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    worths = measured(args, measures)
    found = table.table(worths, measures)
    shown = Table(*found.columns, title=f"{', '.join(worth.label for worth in worths)}; {args.arithmetic}",
                  caption=table.notes(measures))  # fmt: skip
    for row in found.rows:
        shown.add_row(*row)
    Console().print(shown)
    for worth in worths:
        for name, why in worth.missing.items():
            print(f"{worth.label}: {name} was not measured: {why}")
    for new in worths[1:]:
        print(table.verdict_line(worths[0], new))
    head = circumstances(1) | {"bench": "worth", "data": args.data, "packages": args.packages, "seed": args.seed,
                               "arithmetic": args.arithmetic, "counts": asdict(counts)}  # fmt: skip
    lines = [head | line for line in table.lines(worths)]
    for line in lines:
        print(json.dumps(line))
    if args.out:
        append(args.out, lines)
    if args.samples:
        args.samples.write_text(samples(worths, measures), encoding="utf-8")


if __name__ == "__main__":
    main()
