"""`wavefold quality`: the quality card of a model, and two cards compared."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.flags import as_flags
from wavefold.cli.models import add_activations, add_arithmetic, add_memory, add_model, arithmetic_of
from wavefold.cli.terminal import bar, printable

if TYPE_CHECKING:
    from wavefold.quality import Settings
    from wavefold.quality.tables import Table

HELP = "measure what a model is worth: a card with standard errors, beside another model or card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--against", type=Path, metavar="MODEL",
                        help="another model of the same vocabulary: KL divergence and the same best token")  # fmt: skip
    parser.add_argument("--compare", nargs=2, type=Path, metavar="CARD",
                        help="in place of a model: two card.json, of which the differences are shown")  # fmt: skip
    parser.add_argument("--text", type=Path, metavar="PATH",
                        help="a file or folder of texts in place of the shipped ones")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="of the card; an interrupted run goes on there (default: NAME.quality)")  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tokens", type=int, metavar="N",
                      help="of held-out text, about; all other amounts scale with it (default 12288)")  # fmt: skip
    size.add_argument("--quick", action="store_true", help="the card of half a minute: 2048 tokens, short needles")
    parser.add_argument("--parts", metavar="NAME,...",
                        help="in place of all: some of text, needles, loops, forms, tools and chats")  # fmt: skip
    parser.add_argument("--lengths", metavar="N,N,...", help="tokens around a needle (default 512,1024,2048,4096)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default 0)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one a core)")
    add_arithmetic(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"),
                        help="of the activations (default: bfloat16 for released, float32 for exact)")  # fmt: skip
    add_activations(parser)
    add_memory(parser)


def run(args: argparse.Namespace) -> int:
    """Make the card, or compare two."""
    if args.compare is not None:
        if args.model is not None or args.against is not None or args.text is not None:
            raise ValueError("--compare takes two cards and nothing to measure; leave MODEL, --against and --text out")
        return _compare(args)
    from wavefold.locate import model_path
    from wavefold.ops.threads import use_threads
    from wavefold.quality import Asked, Run

    model = model_path(args.model)
    out = args.out or Path(f"{model.name.removesuffix('.gguf')}.quality")
    with as_flags("tokens", "lengths", "parts"), bar("quality") as advance:
        use_threads(args.threads)
        asked = Asked(model, args.against, args.text, _settings(args, model), args.memory)
        card = Run(asked, out, _say, lambda share, left: advance(round(1000 * share), 1000)).card()
    from wavefold.quality.tables import card_tables

    _print(card_tables(card)[0])
    for part, why in card.missing.items():
        print(f"{part}: not measured: {why}")
    print(f"{out / 'card.html'}, card.md, card.json")
    return 0


def _settings(args: argparse.Namespace, model: Path) -> Settings:
    from wavefold.quality import Settings, quick
    from wavefold.quality.lengths import default_lengths
    from wavefold.quality.settings import DEFAULT_TOKENS, PARTS

    if args.lengths is None:
        lengths = default_lengths(model)
    else:
        try:
            lengths = tuple(int(length) for length in args.lengths.split(","))
        except ValueError:
            raise ValueError(f"--lengths {args.lengths} is not allowed; expected numbers as 512,4096") from None
    tokens = DEFAULT_TOKENS if args.tokens is None else args.tokens
    parts = PARTS if args.parts is None else tuple(part for part in args.parts.split(",") if part)
    settings = Settings(tokens, lengths, args.seed, arithmetic_of(args), args.dtype, args.activations, parts)
    return quick(settings) if args.quick else settings


def _say(text: str) -> None:
    print(f"wavefold: {printable(text)}", file=sys.stderr, flush=True)


def _compare(args: argparse.Namespace) -> int:
    from wavefold.quality import Card, compare
    from wavefold.quality.compare import save, verdict
    from wavefold.quality.tables import comparison_table, model_rows

    first, second = (Card.load(path) for path in args.compare)
    differences = compare(first, second)
    print(printable(f"first:  {model_rows(first.model)}\nsecond: {model_rows(second.model)}"))
    same = sum(verdict(one) == "same" for one in differences)
    table = comparison_table(differences, clear_only=True)
    if table.rows:
        _print(table._replace(title="Clear differences, 3 standard errors or more"))
    print(f"{len(differences)} figures: {same} the same, {len(table.rows)} clearly different")
    if args.out is not None:
        save(args.out, first, second, differences)
        print(f"{args.out / 'compare.html'}, compare.md, compare.json")
    return 0


def _print(table: Table) -> None:
    from rich.markup import escape
    from rich.table import Table as Shown

    from wavefold.cli.terminal import wide_console

    shown = Shown(*table.columns, title=table.title)
    for row in table.rows:
        shown.add_row(*(escape(printable(cell)) for cell in row))
    wide_console(160).print(shown)
