"""`wavefold unload`: a model of a running server leaves memory."""

from __future__ import annotations

import argparse

from wavefold.cli.asking import add_server, ask

HELP = "unload a model of a running server once its answers have ended, and give its memory back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as `wavefold models` prints it")
    add_server(parser)


def run(args: argparse.Namespace) -> int:
    """Raises ValueError with the server's words."""
    model = ask(args, "/v1/wavefold/models/unload", {"model": args.name})
    print(f"{model['name']}: {model['state']}")
    return 0
