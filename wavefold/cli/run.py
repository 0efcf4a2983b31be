"""`wavefold run`: completes a prompt, or one prompt after another as they are typed; or answers in a chat."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from wavefold.cli import prompts, ranks
from wavefold.cli.chat import converse
from wavefold.cli.form import add_form
from wavefold.cli.models import add_model
from wavefold.cli.session_flags import add_choosing, add_computing, add_thinking
from wavefold.cli.tuning import tuned
from wavefold.waves import agreement

if TYPE_CHECKING:
    from wavefold.chat import Prompt
    from wavefold.cli.session import Session

HELP = "complete a prompt with a model, or chat with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", metavar="TEXT",
                        help="the text to complete (default: all of stdin, or prompts typed at a terminal)"
    )  # fmt: skip
    prompt.add_argument("--tokens", metavar="FILE",
                        help="token ids to complete, as a JSON list or plain numbers; '-' is stdin")  # fmt: skip
    prompt.add_argument("--lines", action="store_true",
                        help="each line of stdin is a prompt; an empty one too, so that the Nth JSON object "
                        "is of the Nth line")  # fmt: skip
    parser.add_argument("--chat", action="store_true",
                        help="prompts are a user's messages, in DeepSeek-V4's chat encoding; earlier ones are "
                        "remembered (at a terminal: `wavefold chat`)")  # fmt: skip
    parser.add_argument("--system", metavar="TEXT", help="with --chat: the system text before the first message")
    add_thinking(parser, "with --chat: ")
    parser.add_argument("--allow-special", action="store_true",
                        help="special tokens that are written in a prompt, as <｜User｜>, are those tokens, not plain "
                        "text")  # fmt: skip
    add_choosing(parser, "256")
    add_form(parser)
    add_computing(parser)
    parser.add_argument("--json", action="store_true",
                        help="print one JSON object for each answer in place of text and figures; its finish_reason is "
                        "eos, stop (a chat's next turn began, or a --json-schema, --regex or --choice is complete), "
                        "length (--max-tokens) or context (the window is full); a rate that was not measured is null"
    )  # fmt: skip
    ranks.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Load the model. Answer the prompt of the flags, or the prompts of stdin until it ends."""
    alone = agreement.num_ranks() == 1
    with tuned(args.tuning, args.threads, measures=False, alone=alone):
        return run_alone(args) if alone else run_over_ranks(args)


def run_alone(args: argparse.Namespace) -> int:
    session, prompt = prepare(args)
    if prompt is not None:
        session.answer(prompt)
    elif args.prompt is not None:
        session.answer_text(args.prompt)
    elif args.lines:
        for text in prompts.lines():
            session.answer_text(text)
    elif prompts.on_terminal() and args.chat:
        converse(session)
    elif prompts.on_terminal():
        session.converse(prompts.typed())
    else:
        session.answer_text(prompts.whole())
    return 0


def run_over_ranks(args: argparse.Namespace) -> int:
    """The first process answers; the others run its passes, each with its share of the experts."""

    def ready() -> tuple[tuple[Session, Prompt], dict[str, object]]:
        if args.prompt is None and args.tokens is None:
            raise ValueError(
                "several processes need a prompt that all of them have; give one with -p TEXT or --tokens FILE"
            )
        session, prompt = prepare(args)
        prompt = session.prompt(args.prompt) if prompt is None else prompt
        return (session, prompt), session.values(prompt)

    with agreement.joined():
        session, prompt = agreement.agreed(ready)
        if agreement.is_first():
            with session.llm:
                session.answer(prompt)
        else:
            session.llm.follow()
    return 0


def prepare(args: argparse.Namespace) -> tuple[Session, Prompt | None]:
    """The session, and the prompt of `--tokens`. Raises ValueError for flags that do not go together."""
    check_flags(args)
    ids = None if args.tokens is None else prompts.read_tokens(args.tokens)
    from wavefold.chat import Prompt
    from wavefold.cli.session import Session

    return Session(args), None if ids is None else Prompt(ids)


def check_flags(args: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together."""
    if args.json and args.prompt is None and args.tokens is None and not args.lines and prompts.on_terminal():
        raise ValueError("--json needs a prompt; give one with -p TEXT, --tokens FILE or on stdin")
    if args.json_schema == "-" and (args.tokens == "-" or (args.prompt is None and args.tokens is None)):
        raise ValueError("--json-schema - reads stdin, which is the prompt; give one with -p TEXT or --tokens FILE")
    if not args.chat and (args.system is not None or args.think):
        raise ValueError(f"{'--think' if args.system is None else '--system'} is a chat's; expected --chat with it")
    if args.chat and args.tokens is not None:
        raise ValueError("--tokens are run as they are; expected a message's text with --chat")
    if args.chat and args.allow_special:
        raise ValueError("--allow-special is for completions: in a chat nobody may write a turn's markers")
