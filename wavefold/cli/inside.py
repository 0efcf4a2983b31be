"""`wavefold inside`: what a model saw when it made a token of a text: a table, and files for others to read."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli import prompts
from wavefold.cli.models import add_arithmetic, add_memory, add_model, arithmetic_of
from wavefold.cli.terminal import bar, printable, wide_console
from wavefold.cli.tuning import add_tuning, tuned

if TYPE_CHECKING:
    from wavefold.chat import Tokenizer
    from wavefold.inside import Seen

HELP = "look at what a model saw when it made a token: window, entries, experts, guesses"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT", help="the text, after BOS (default: all of stdin)")
    source.add_argument("--tokens", metavar="FILE",
                        help="token ids in place of a text, as a JSON list or plain numbers; '-' is stdin")  # fmt: skip
    parser.add_argument("--position", type=int, metavar="P",
                        help="the token that is looked at, from 0 (BOS) on: it made the one after it (default: the "
                        "last)")  # fmt: skip
    parser.add_argument("--adapter", type=Path, metavar="DIR",
                        help="an adapter in PEFT's layout, through which the text is read")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole record (docs/inside.md)")
    parser.add_argument("--svg", type=Path, metavar="FILE",
                        help="draw how attention lay over the text, a strip a layer (or .png)")  # fmt: skip
    add_memory(parser)
    add_arithmetic(parser)
    add_tuning(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one a core)")


def run(args: argparse.Namespace) -> int:
    """Look at the token and print the table. Raises ValueError at once for a file without a folder."""
    for flag, path in (("--json", args.json), ("--svg", args.svg)):
        if path is not None and (not path.absolute().parent.is_dir() or path.is_dir()):
            raise ValueError(f"{flag} {path} is not allowed; expected the name of a file in a folder that exists")
    if args.svg is not None and args.svg.suffix not in (".svg", ".png"):
        raise ValueError(f"--svg {args.svg} is not allowed; expected a name that ends in .svg or .png")
    if args.svg is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--svg needs matplotlib; install it with: pip install 'wavefold[train]'")
    request: dict[str, object] = {"position": args.position}
    if args.tokens is not None:
        request["ids"] = prompts.read_tokens(args.tokens)
    else:
        request["text"] = prompts.whole() if args.prompt is None else args.prompt
    from wavefold.atomic import write_json
    from wavefold.cli.flags import as_flags
    from wavefold.inside import asked, look, values_of
    from wavefold.inside.figure import draw
    from wavefold.llm import LLM

    with tuned(args.tuning, args.threads, measures=False, alone=True), as_flags("position"):
        llm = LLM(args.model, arithmetic_of(args), threads=args.threads, memory=args.memory, prefix_cache=False)
        adapter = None if args.adapter is None else args.adapter.resolve().name
        with llm, bar("reading") as advance:
            if adapter is not None:
                llm.load_adapter(adapter, args.adapter)
            config, tokenizer = llm.model.config, llm.tokenizer
            ids, position = asked(request, tokenizer, config, config.max_position_embeddings)
            seen = look(llm, ids, position, advance, adapter)
    print_seen(seen, ids, tokenizer, adapter)
    if args.json is not None:
        write_json(args.json, values_of(seen, ids, tokenizer))
    if args.svg is not None:
        draw(seen, args.svg)
    return 0


def print_seen(seen: Seen, ids: list[int], tokenizer: Tokenizer | None, adapter: str | None = None) -> None:
    """Print the token, what it made, the adapter if there is one, and a table of the layers."""
    from rich.markup import escape
    from rich.table import Table

    from wavefold.inside.table import COLUMNS, rows_of, share, shown

    def text(token: int) -> str:
        return escape(printable(shown([token], tokenizer)))

    console = wide_console(160)
    through = "" if adapter is None else f", through {escape(printable(adapter))}"
    table = Table(*COLUMNS, title=f"token {seen.position:,} of {len(ids):,}: {text(ids[seen.position])}{through}")
    for row in rows_of(seen, ids, tokenizer):
        table.add_row(*(escape(printable(cell)) for cell in row))
    console.print(table)
    top = "  ".join(f"{text(token)} {share(probability)}" for token, probability in seen.top)
    console.print(f"next: {top}", highlight=False)
    if seen.next_probability is not None:
        following = text(ids[seen.position + 1])
        console.print(f"the text goes on with {following}, {share(seen.next_probability)}", highlight=False)
    if (guess := seen.guess) is not None:
        kept = {True: "the text has it", False: "the text has another", None: "the text ends before it"}[guess.accepted]
        words = f"MTP's guess of the token after: {text(guess.token)} {share(guess.probability)}, {kept}"
        console.print(words, highlight=False)
