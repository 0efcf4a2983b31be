"""`wavefold load`: a model of a running server comes into memory."""

from __future__ import annotations

import argparse

from wavefold.cli.asking import add_model_there, change_model

HELP = "load a model of a running server's folder, and wait until it is in memory"


add_arguments = add_model_there


def run(args: argparse.Namespace) -> int:
    """Raises ValueError with the server's words."""
    return change_model(args, "load")
