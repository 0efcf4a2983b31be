"""`wavefold unload`: a model of a running server leaves memory."""

from __future__ import annotations

import argparse

from wavefold.cli.asking import add_model_there, change_model

HELP = "unload a model of a running server once its answers have ended, and give its memory back"


add_arguments = add_model_there


def run(args: argparse.Namespace) -> int:
    """Raises ValueError with the server's words."""
    return change_model(args, "unload")
