"""`wavefold jobs add|ls|show|results|cancel|rm`: a queue of requests that a server answers when there is time."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavefold.cli.terminal import counted, printable, wide_console

if TYPE_CHECKING:
    from wavefold.jobs.lines import LineError
    from wavefold.jobs.queue import Queue
    from wavefold.jobs.summary import Part, Summary

HELP = "a queue of requests that `wavefold serve --jobs DIR` answers when there is time"
CHECK_S = 2.0
"""So long `ls` and `show` check the database."""
MOST_ALIKE, MOST_REASONS = 3, 5
CLIENTS = "none of its lines is under way; answers of clients come first"
ACTIONS = {
    "add": "add a file of lines as a batch, and print its id; also while a server works on the queue",
    "ls": "each batch: id, state, lines, time left, priority, quiet hours",
    "show": "a batch: progress, time left, tokens, by model; why it does not go on, and why lines failed",
    "results": "the results of a batch so far, in the order of its lines",
    "cancel": "end a batch; results that there are stay",
    "rm": "remove a batch that has ended, with its results",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        action.add_argument("--jobs", type=Path, metavar="DIR",
                            help="the queue's folder (default: jobs in the data folder of wavefold)")  # fmt: skip
        if name == "add":
            _add_wishes(action)
        elif name != "ls":
            action.add_argument("batch", metavar="ID", help="as `ls` prints it, or the beginning of it")
        if name == "results":
            action.add_argument("--out", type=Path, metavar="FILE", help="write them there (default: to stdout)")
            action.add_argument("--force", action="store_true", help="replace FILE")


def _add_wishes(action: argparse.ArgumentParser) -> None:
    action.add_argument("input", type=Path, metavar="IN",
                        help='JSON lines: OpenAI\'s batch format, {"prompt": ...}, {"messages": ...}, "a text"'
    )  # fmt: skip
    action.add_argument("--model", metavar="M",
                        help="the name of the model, in the place of what lines say (needed where they say none)"
    )  # fmt: skip
    action.add_argument("--models", type=Path, metavar="DIR", help="refuse lines for models that this folder does not "
                        "have (default: those that the server which works on the queue does not have)")  # fmt: skip
    action.add_argument("--priority", type=int, default=0, metavar="N", help="higher is first (default 0)")
    action.add_argument("--quiet-hours", metavar="A-B", help="when it may run, in local time: 22:00-07:00")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for a queue that is not there, and for a batch that is not in it."""
    from wavefold.jobs.queue import Queue
    from wavefold.system.folders import data_folder

    folder = args.jobs or data_folder() / "jobs"
    with Queue(folder, create=args.action == "add") as queue:
        code = {"add": add, "ls": list_batches, "show": show, "results": print_results, "cancel": cancel, "rm": remove}[
            args.action
        ](queue, args)
        if args.action in ("ls", "show"):
            sys.stdout.flush()
            queue.check(CHECK_S)
    return code


def add(queue: Queue, args: argparse.Namespace) -> int:
    from wavefold.jobs.plain import official
    from wavefold.jobs.queue import Invalid, Wanted, check_priority
    from wavefold.jobs.quiet import QuietHours

    check_priority(args.priority)
    quiet = None if args.quiet_hours is None else QuietHours.parse(args.quiet_hours)
    offered = offered_by(who_works(queue) if args.models is None else {"offer": str(args.models)})
    if args.model is not None and offered is not None and args.model not in offered:
        raise ValueError(f"--model {args.model} is not served; expected one of {', '.join(sorted(offered)) or 'none'}")
    file_id = queue.keep(args.input)
    try:
        batch = queue.add(file_id, Wanted(None, args.model, args.priority, quiet, offered=offered), official)
    except BaseException as error:
        queue.delete_file(file_id)
        if not isinstance(error, Invalid):
            raise
        lines = "\n  ".join(words_of(error.errors))
        raise ValueError(f"{args.input}: nothing was added\n  {lines}") from None
    print(batch)
    total = summary(queue, batch).total
    works = "a process works on it" if who_works(queue) else f"`wavefold serve --jobs {queue.folder}` works on it"
    print(f"{counted(total, 'line')} in {queue.folder}; {works}", file=sys.stderr)
    return 0


def list_batches(queue: Queue, args: argparse.Namespace) -> int:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in ("batch", "state", "lines", "done", "failed", "time left", "priority", "quiet hours", "added"):
        is_count = title in ("lines", "done", "failed", "time left", "priority")
        table.add_column(title, justify="right" if is_count else "left", no_wrap=True)
    for row in queue.batches():
        batch = summary(queue, row["id"])
        table.add_row(row["id"], row["state"], f"{batch.total:,}", f"{batch.completed:,}", f"{batch.failed:,}",
                      left(batch), str(row["priority"]), row["quiet"] or "", at(row["created"]))  # fmt: skip
    wide_console(160).print(table)
    _print_worker(queue)
    return 0


def show(queue: Queue, args: argparse.Namespace) -> int:
    batch = summary(queue, full_id(queue, args.batch))
    row, usage, worker = batch.row, batch.usage, who_works(queue)
    rest = batch.total - batch.completed - batch.failed
    runs = row["state"] == "in_progress"
    counts = f"{batch.completed:,} done, {batch.failed:,} failed, {rest:,} {'left' if runs or not rest else 'not done'}"
    lines = {
        "batch": row["id"],
        "state": row["state"],
        "waits": why(queue, batch, worker) if runs else "",
        "lines": f"{batch.total:,}: {counts}",
        "tokens": f"{usage.input:,} read ({usage.cached:,} of them cached), {usage.output:,} written",
        "worked": f"{span(batch.seconds)}, {counted(row['swaps'], 'change')} of the model",
        "time left": left(batch),
        "priority": str(row["priority"]),
        "quiet hours": row["quiet"] or "",
        "added": at(row["created"]),
        "begun": at(row["began"]),
        "ended": at(row["ended"]),
    }
    for name, text in lines.items():
        if text:
            print(f"{name:12}{printable(text)}")
    offered = offered_by(worker)
    for part in batch.parts:
        print(f"  {printable(part.model)}: {words_of_part(part, runs, offered)}; {span(part.seconds)}")
    for error in batch.errors:
        print(f"  {printable(str(error['message']))}")
    _print_failures(queue, batch)
    return 0


def print_results(queue: Queue, args: argparse.Namespace) -> int:
    from wavefold.atomic import write_file

    if args.out is not None and args.out.exists() and not args.force:
        raise ValueError(f"{args.out}: exists already; give another name, or --force to replace it")
    row = queue.batch(full_id(queue, args.batch))
    results = queue.results(row["number"])
    if args.out is None:
        sys.stdout.flush()
        for text in results:
            sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    else:
        sizes: list[int] = []
        write_file(args.out, lambda file: sizes.extend(map(file.write, results)))
        print(f"{counted(len(sizes), 'result')} in {args.out}", file=sys.stderr)
    if row["state"] == "in_progress":
        print(f"{row['id']} has not ended: these are its results so far", file=sys.stderr)
    return 0


def cancel(queue: Queue, args: argparse.Namespace) -> int:
    batch = full_id(queue, args.batch)
    if not queue.cancel(batch):
        raise ValueError(f"{batch} is {queue.batch(batch)['state']}; expected one that runs")
    return 0


def remove(queue: Queue, args: argparse.Namespace) -> int:
    queue.remove(full_id(queue, args.batch))
    return 0


def full_id(queue: Queue, name: str) -> str:
    """Returns the id of the batch that begins so. Raises ValueError where it is not one."""
    found = [row["id"] for row in queue.batches() if row["id"] == name or row["id"].startswith(name)]
    if name in found:
        return name
    if len(found) != 1 or not name:
        raise ValueError(f"{name} names {len(found)} batches in {queue.folder}; expected one of `wavefold jobs ls`")
    return str(found[0])


def summary(queue: Queue, batch: str) -> Summary:
    from wavefold.jobs.summary import summary_of

    return summary_of(queue, queue.batch(batch))


def who_works(queue: Queue) -> dict[str, Any] | None:
    from wavefold.jobs.board import look

    return look(queue.folder)


def offered_by(worker: dict[str, Any] | None) -> set[str] | None:
    """Returns the names of the models that a worker can be asked for; None where they are not known."""
    from wavefold.pool.folder import entries

    offer = None if worker is None else worker.get("offer")
    if isinstance(offer, str):
        try:
            return {name for name, entry in entries(Path(offer)).items() if not entry.fault}
        except (OSError, ValueError):
            return None
    return None if offer is None else set(offer)


def why(queue: Queue, batch: Summary, worker: dict[str, Any] | None) -> str:
    """Returns why a batch that runs does not go on; an empty text where it does."""
    from wavefold.jobs.reasons import turns_of, why_waiting

    paused = no_worker(queue) if worker is None else worker["paused"]
    if (reason := why_waiting(batch, turns_of(queue), paused)) is not None:
        return reason
    return "" if any(part.under_way for part in batch.parts) else CLIENTS


def no_worker(queue: Queue) -> str:
    return f"no process works on the queue; `wavefold serve --jobs {queue.folder}` does"


def words_of_part(part: Part, runs: bool, offered: set[str] | None) -> str:
    """Returns what became of a batch's lines of one model."""
    words = [f"{part.completed:,} done", f"{part.failed:,} failed"]
    if runs:
        words += [f"{part.under_way:,} under way", f"{part.left - part.under_way:,} wait"]
    elif part.left:
        words.append(f"{part.left:,} not done")
    if runs and part.left and offered is not None and part.model not in offered:
        words.append("this model is not served, so its lines will fail")
    return ", ".join(words)


def words_of(errors: Sequence[LineError]) -> list[str]:
    """Returns the errors of a file, a line each: of one kind the first `MOST_ALIKE`, and how many more there are."""
    from wavefold.jobs.queue import MOST_ERRORS

    kinds: dict[tuple[str, str | None], list[LineError]] = {}
    for error in errors:
        kinds.setdefault((error.code, error.param), []).append(error)
    words = []
    for alike in kinds.values():
        words += [str(error) for error in alike[:MOST_ALIKE]]
        if len(alike) > MOST_ALIKE:
            words.append(f"and {counted(len(alike) - MOST_ALIKE, 'line')} more with the same fault")
    return [*words, f"the file was read to its {MOST_ERRORS}th fault"] if len(errors) >= MOST_ERRORS else words


def _print_failures(queue: Queue, batch: Summary) -> None:
    """Says why lines of a batch failed: the most frequent reasons."""
    from wavefold.jobs.reasons import why_failed

    reasons = why_failed(queue, batch.row["number"]) if batch.failed else []
    for reason in reasons[:MOST_REASONS]:
        print(printable(f"  {counted(reason.num_lines, 'line')} failed with status {reason.status}: {reason.message}"))
    told = sum(reason.num_lines for reason in reasons[:MOST_REASONS])
    if (rest := batch.failed - told) > 0:  # for other reasons, or beyond those that are read
        print(f"  {counted(rest, 'line')} more failed; `wavefold jobs results` has them")


def _print_worker(queue: Queue) -> None:
    """Says who works on the queue, and why it does not go on, below what is printed."""
    worker = who_works(queue)
    if worker is None:
        print(no_worker(queue), file=sys.stderr)
    elif worker["paused"]:
        print(printable(f"paused: {worker['paused']}"), file=sys.stderr)


def left(batch: Summary) -> str:
    return "" if batch.left_s is None else span(batch.left_s)


def span(seconds: float) -> str:
    """Returns a length of time in a few characters."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def at(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
