"""`wavefold bench tune`: measures how the kernels like to be fed here, and writes it down for other commands."""

from __future__ import annotations

import argparse

from wavefold.cli.terminal import wide_console
from wavefold.cli.tuning import TURNS, measure, measured_path, stored_tuning

HELP = "find and keep the tuning of the CPU kernels on this machine (a few seconds)"
REPEATS = TURNS
WANTED = 0.03
FILE_WIDTH = 130
"""Columns of a table that is not printed on a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--again", action="store_true", help="measure although there is a stored tuning")
    parser.add_argument("--full", action="store_true",
                        help="time every hint at every distance too, and say how far the choice is from the best "
                        "(with --again where one is stored)")  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")


def run(args: argparse.Namespace) -> int:
    """A line of the table, and of JSON, for each candidate."""
    from rich.table import Table

    from wavefold.bench.circumstances import append, circumstances, kernels_in_use
    from wavefold.cli.flags import as_flags
    from wavefold.ops.threads import use_threads

    kernels_in_use()  # refuses where there are none
    with as_flags():
        use_threads(args.threads)
    console = wide_console(FILE_WIDTH)
    if not args.again and (known := stored_tuning(args.threads)) is not None:
        console.print(f"{known}: measured before, in {measured_path()}; --again measures anew", soft_wrap=True,
                      highlight=False)  # fmt: skip
        return 0
    found = measure(args.threads, args.repeats, args.full)
    about = circumstances(args.repeats) | {"bench": "tune"}
    table = Table("stage", "tuning", "faster than usual")
    for candidate in found.candidates:
        table.add_row(candidate.stage, str(candidate.tuning), f"{candidate.gain:+.1%}")
    console.print(table)
    console.print(f"{about['hardware']}, {about['threads']} threads, best of {args.repeats} turns", highlight=False)
    console.print(f"usual   {found.usual}\nchosen  {found.chosen}, in {measured_path()}", soft_wrap=True,
                  highlight=False)  # fmt: skip
    if found.full:
        best = found.full[0]
        verdict = "within" if best.gain <= WANTED else "not within"
        console.print(
            f"best of the full sweep: {best.tuning}, {best.gain:+.1%} over the choice: {verdict} {WANTED:.0%}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    if args.out:
        append(args.out, [
            about | {"stage": candidate.stage, "tuning": candidate.tuning._asdict(), "gain": candidate.gain}
            for candidate in [*found.candidates, *found.full]
        ])  # fmt: skip
    return 0
