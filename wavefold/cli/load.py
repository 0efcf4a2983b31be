"""`wavefold load`: a model of a running server comes into memory."""

from __future__ import annotations

import argparse

from wavefold.cli.asking import add_server, ask

HELP = "load a model of a running server's folder, and wait until it is in memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as `wavefold models` prints it")
    add_server(parser)


def run(args: argparse.Namespace) -> int:
    """Raises ValueError with the server's words."""
    model = ask(args, "/v1/wavefold/models/load", {"model": args.name})
    print(f"{model['name']}: {model['state']}")
    return 0
