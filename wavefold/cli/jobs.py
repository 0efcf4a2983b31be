"""`wavefold jobs add|ls|show|results|cancel|rm`: a queue of requests that a server answers when there is time."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.terminal import printable, wide_console

if TYPE_CHECKING:
    from wavefold.jobs.queue import Queue
    from wavefold.jobs.summary import Summary

HELP = "a queue of requests that `wavefold serve --jobs DIR` answers when there is time"
ACTIONS = {
    "add": "add a file of lines as a batch, and print its id; also while a server works on the queue",
    "ls": "each batch: id, state, lines, time left, priority, quiet hours",
    "show": "a batch: progress, time left, tokens, by model; why it does not go on; at its end a summary",
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


def _add_wishes(action: argparse.ArgumentParser) -> None:
    action.add_argument("input", type=Path, metavar="IN",
                        help='JSON lines: OpenAI\'s batch format, {"prompt": ...} or {"messages": ...}')  # fmt: skip
    action.add_argument("--model", metavar="M",
                        help="the name of the model, in the place of what lines say (needed where they say none)"
    )  # fmt: skip
    action.add_argument("--priority", type=int, default=0, metavar="N", help="higher is first (default 0)")
    action.add_argument("--quiet-hours", metavar="A-B", help="when it may run, in local time: 22:00-07:00")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for a queue that is not there, and for a batch that is not in it."""
    from wavefold.jobs.queue import Queue
    from wavefold.system.folders import data_folder

    folder = args.jobs or data_folder() / "jobs"
    with Queue(folder, create=args.action == "add") as queue:
        return {"add": add, "ls": list_batches, "show": show, "results": print_results, "cancel": cancel, "rm": remove}[
            args.action
        ](queue, args)


def add(queue: Queue, args: argparse.Namespace) -> int:
    from wavefold.jobs.plain import official
    from wavefold.jobs.queue import Invalid, Wanted, check_priority
    from wavefold.jobs.quiet import QuietHours

    check_priority(args.priority)
    quiet = None if args.quiet_hours is None else QuietHours.parse(args.quiet_hours)
    file_id = queue.keep(args.input)
    try:
        batch = queue.add(file_id, Wanted(None, args.model, args.priority, quiet), official)
    except BaseException as error:
        queue.delete_file(file_id)
        if not isinstance(error, Invalid):
            raise
        lines = "\n  ".join(str(one) for one in error.errors)
        raise ValueError(f"{args.input}: nothing was added\n  {lines}") from None
    print(batch)
    total = summary(queue, batch).total
    works = "a process works on it" if who_works(queue) else f"`wavefold serve --jobs {queue.folder}` works on it"
    print(f"{total:,} lines in {queue.folder}; {works}", file=sys.stderr)
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
    row, usage = batch.row, batch.usage
    done = batch.completed + batch.failed
    lines = {
        "batch": row["id"],
        "state": row["state"],
        "lines": f"{batch.total:,}: {batch.completed:,} done, {batch.failed:,} failed, {batch.total - done:,} left",
        "tokens": f"{usage.input:,} read ({usage.cached:,} of them cached), {usage.output:,} written",
        "worked": f"{span(batch.seconds)}, {row['swaps']:,} changes of the model",
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
    for part in batch.parts:
        counts = f"{part.completed:,} done, {part.failed:,} failed, {part.under_way:,} under way"
        print(f"  {printable(part.model)}: {counts}, {part.left - part.under_way:,} wait; {span(part.seconds)}")
    for error in batch.errors:
        print(f"  {printable(str(error['message']))}")
    _print_worker(queue)
    return 0


def print_results(queue: Queue, args: argparse.Namespace) -> int:
    from wavefold.atomic import write_file

    row = queue.batch(full_id(queue, args.batch))
    results = queue.results(row["number"])
    if args.out is None:
        sys.stdout.flush()
        for text in results:
            sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    else:
        write_file(args.out, lambda file: file.writelines(results))
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


def who_works(queue: Queue) -> dict[str, object] | None:
    from wavefold.jobs.board import look

    return look(queue.folder)


def _print_worker(queue: Queue) -> None:
    """Says who works on the queue, and why he does not go on, below what is printed."""
    said = who_works(queue)
    if said is None:
        print(f"no process works on the queue; `wavefold serve --jobs {queue.folder}` does", file=sys.stderr)
    elif said["paused"]:
        print(printable(f"paused: {said['paused']}"), file=sys.stderr)


def left(batch: Summary) -> str:
    return "" if batch.left_s is None else span(batch.left_s)


def span(seconds: float) -> str:
    """Returns a length of time in a few characters."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def at(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
