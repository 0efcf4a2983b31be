"""`wavefold chat`: a conversation with a model in the terminal. `wavefold run --chat` at a terminal is the same."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from wavefold.cli import prompts
from wavefold.cli.models import add_model
from wavefold.cli.session_flags import add_choosing, add_computing, add_thinking
from wavefold.cli.tuning import tuned
from wavefold.waves import agreement

if TYPE_CHECKING:
    from wavefold.cli.session import Session

HELP = "chat with a model, in DeepSeek-V4's chat encoding: turns, commands, a history of typed lines"
FLAGS_OF_RUN = {
    "prompt": None, "tokens": None, "chat": True, "json": False, "allow_special": False, "json_schema": None,
    "regex": None, "choice": None, "waves": None, "wire": None, "back": None,
}  # fmt: skip
"""What a session reads of `run`'s flags beside those that both have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system text before the first message")
    add_thinking(parser)
    add_choosing(parser, "2048")
    add_computing(parser)
    parser.set_defaults(**FLAGS_OF_RUN)


def run(args: argparse.Namespace) -> int:
    """Load the model. Answer what is typed, or each line of a stdin that is no terminal, until it ends."""
    if agreement.num_ranks() > 1:
        raise ValueError("a chat runs in one process; start `wavefold chat` without torchrun")
    with tuned(args.tuning, args.threads, measures=False, alone=True):
        from wavefold.cli.session import Session

        converse(Session(args))
    return 0


def converse(session: Session) -> None:
    """Turns until the input ends, or a command ends them."""
    from wavefold.cli.chat_loop import ChatLoop

    loop = ChatLoop(session)
    with session.llm:
        if prompts.on_terminal():
            loop.greet()
            loop.run(prompts.typed())
        else:
            loop.run(prompts.lines())
