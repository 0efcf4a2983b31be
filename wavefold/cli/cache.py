"""`wavefold cache ls|rm|verify|stats`: the prompts that a disk keeps. Only `rm` changes anything."""

from __future__ import annotations

import argparse
import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.folders import prefix_folder
from wavefold.cli.terminal import bar, printable, wide_console
from wavefold.system.sizes import gib

if TYPE_CHECKING:
    from wavefold.cache.disk_inspect import Folder

HELP = "list, check or remove the prompts that a disk keeps"
SHORT = 12
"""Digits of a space's digest that are printed, and the fewest that name it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    texts = {
        "ls": "each space, of one model and one way to compute: its name here, records, bytes, last use, what it is",
        "stats": "bytes, cap and records of the folder",
        "verify": "read every record whole and compare its checksum; exit code 1 if one is damaged",
        "rm": "remove what belongs to the names that `ls` prints, or all",
    }
    for name, text in texts.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        action.add_argument("--cache-dir", type=Path, metavar="DIR",
                            help="the folder (default: prefix in the cache folder of wavefold)")  # fmt: skip
        if name == "rm":
            action.add_argument("spaces", nargs="*", metavar="NAME", help="names that `ls` prints, or longer ones")
            action.add_argument("--all", action="store_true", help="everything in the folder")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for a folder that is not there, and for names that are not in it."""
    from wavefold.cache.disk_inspect import look

    path = args.cache_dir or prefix_folder()
    if path.exists() and not path.is_dir():
        raise ValueError(f"--cache-dir {path}: is a file; expected a folder that --disk-cache has made")
    folder = look(path)
    return {"ls": list_spaces, "stats": print_stats, "verify": verify_all, "rm": remove_some}[args.action](folder, args)


def list_spaces(folder: Folder, args: argparse.Namespace) -> int:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in ("name", "blocks", "states", "size", "last use", "of"):
        table.add_column(title, justify="right" if title in ("blocks", "states", "size") else "left",
                         no_wrap=title != "of", overflow="fold")  # fmt: skip
    for space in sorted(folder.spaces.values(), key=lambda space: -space.used_at):
        used_at = time.strftime("%Y-%m-%d %H:%M", time.localtime(space.used_at))
        table.add_row(space.space[:SHORT], f"{space.num_blocks:,}", f"{space.num_states:,}", gib(space.num_bytes),
                      used_at, printable(space.about).replace("[", r"\["))  # fmt: skip
    wide_console(320).print(table)
    return 0


def print_stats(folder: Folder, args: argparse.Namespace) -> int:
    spaces = folder.spaces.values()
    lines = {
        "folder": str(folder.folder),
        "size": f"{gib(folder.num_bytes)} of {gib(folder.cap) if folder.cap else 'no known cap'}",
        "segments": f"{folder.num_segments:,}",
        "blocks": f"{sum(space.num_blocks for space in spaces):,} of 128 tokens",
        "states": f"{sum(space.num_states for space in spaces):,}",
        "spaces": f"{len(spaces):,}",
        "damaged": f"{len(folder.damaged):,} segments",
        "newer": f"{len(folder.newer):,} segments",
    }
    for name, text in lines.items():
        print(f"{name:10}{printable(text)}")
    return 0


def verify_all(folder: Folder, args: argparse.Namespace) -> int:
    from wavefold.cache.disk_inspect import verify

    with bar("reading", in_bytes=True) as show:
        num_right, wrong = verify(folder, show)
    for text in wrong:
        print(f"damaged: {printable(text)}")
    newer = f", {len(folder.newer):,} segments of a newer version were not read" if folder.newer else ""
    print(f"{num_right:,} records are as they were written, {len(wrong):,} damaged{newer}")
    return int(bool(wrong))


def remove_some(folder: Folder, args: argparse.Namespace) -> int:
    from wavefold.cache.disk_inspect import remove

    if args.spaces and args.all:
        raise ValueError(f"{' '.join(args.spaces)} and --all are not allowed together; give either names or --all")
    if not args.spaces and not args.all:
        raise ValueError("nothing to remove was named; expected names that `wavefold cache ls` prints, or --all")
    names = [_full_name(folder, name) for name in args.spaces]
    try:
        if not os.access(folder.folder, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        num_bytes, num_used = remove(folder, None if args.all else names)
    except OSError as error:
        raise ValueError(f"{folder.folder}: nothing can be removed ({error.strerror}); expected a folder that this "
                         "user may write to") from None  # fmt: skip
    print(f"{gib(num_bytes)} removed" + (f"; {num_used:,} segments are in use and stay" if num_used else ""))
    return 0


def _full_name(folder: Folder, name: str) -> str:
    found = [space for space in folder.spaces if space.startswith(name.lower()) and len(name) >= SHORT]
    if len(found) != 1:
        names = ", ".join(space[:SHORT] for space in folder.spaces) or "none"
        raise ValueError(f"{name} names {len(found)} spaces in {folder.folder}; expected one of {names}")
    return found[0]
