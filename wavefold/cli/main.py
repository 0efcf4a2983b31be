"""`wavefold COMMAND ...`. A user's mistake is one message and exit code 2; an interruption is 130.

The commands import torch when they run, so that help and mistakes in the arguments come at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from wavefold import __version__
from wavefold.cli import (
    batch,
    bench,
    cache,
    chat,
    convert,
    data,
    doctor,
    init,
    inside,
    jobs,
    list_models,
    load,
    merge,
    plan,
    pull,
    quality,
    quantize,
    rm,
    run,
    serve,
    trace,
    train,
    unload,
)  # fmt: skip
from wavefold.cli.terminal import printable
from wavefold.system import Notice, check_address_space

COMMANDS: dict[str, ModuleType] = {
    "run": run,
    "serve": serve,
    "chat": chat,
    "batch": batch,
    "jobs": jobs,
    "init": init,
    "quantize": quantize,
    "convert": convert,
    "merge": merge,
    "quality": quality,
    "doctor": doctor,
    "inside": inside,
    "train": train,
    "data": data,
    "plan": plan,
    "trace": trace,
    "bench": bench,
    "cache": cache,
    "models": list_models,
    "pull": pull,
    "rm": rm,
    "load": load,
    "unload": unload,
}

MISTAKE = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments` (None: the process's own) and return its exit code."""
    args = build_parser().parse_args(arguments)
    # torch's OpenMP threads wait actively, on cores that the kernels need. Training is torch's work: sleepers slow it.
    if args.command != "train":
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        check_address_space()
        with notices():
            return COMMANDS[args.command].run(args)
    except BrokenPipeError:  # the reader of our output left: `wavefold run ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        return 1
    except KeyboardInterrupt as error:
        if str(error):
            print(f"wavefold: {error}", file=sys.stderr)
        return getattr(error, "exit_code", INTERRUPTED)
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_expected(error):
            raise
        print(f"wavefold: error: {printable(str(error))}", file=sys.stderr)
        return MISTAKE
    except MemoryError:
        print("wavefold: error: memory ran out; expected more of it, or less to do", file=sys.stderr)
        return MISTAKE


@contextlib.contextmanager
def notices() -> Iterator[None]:
    """While the block runs, each Notice is one line on stderr; other warnings are shown as always."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        show = warnings.showwarning

        def show_notice(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, Notice):
                print(f"wavefold: {printable(str(message))}", file=sys.stderr)
            else:
                show(message, category, *place, **options)

        warnings.showwarning = show_notice
        yield


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="wavefold", description="The DeepSeek-V4 architecture on ordinary machines.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"wavefold {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return parser


def _is_expected(error: RuntimeError) -> bool:
    """True if the message suffices without a traceback: a full cache, another rank that died."""
    from wavefold.cache import PoolFull
    from wavefold.waves.transport import RankLost

    return isinstance(error, PoolFull | RankLost)
