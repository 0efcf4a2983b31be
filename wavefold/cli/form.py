"""`--json-schema`, `--regex`, `--choices`: what an answer's text must be."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_form(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json-schema", type=Path, metavar="FILE", help="answers are JSON that this schema allows")
    group.add_argument("--regex", metavar="EXPRESSION", help="answers match this expression as a whole")
    group.add_argument("--choices", nargs="+", metavar="TEXT", help="answers are one of these texts")


def form_of(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of `Sampling`. Raises ValueError for a file that cannot be read."""
    schema = None
    if args.json_schema is not None:
        try:
            schema = args.json_schema.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--json-schema {args.json_schema}: {error}; expected a file with a JSON schema") from None
    return {"json_schema": schema, "regex": args.regex, "choices": tuple(args.choices or ())}


def has_form(args: argparse.Namespace) -> bool:
    """True if answers are held to a form."""
    return bool(args.json_schema or args.regex is not None or args.choices)
