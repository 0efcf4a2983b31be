"""`--json-schema`, `--regex`, `--choice`: what an answer's text must be."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_form(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json-schema", metavar="FILE",
                       help="answers are JSON that the schema in this file allows; '-' is stdin")  # fmt: skip
    group.add_argument("--regex", metavar="EXPRESSION", help="answers match this expression as a whole")
    group.add_argument("--choice", action="append", metavar="TEXT",
                       help="answers are this text; again for others that are allowed")  # fmt: skip


def form_of(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of `Sampling`. Raises ValueError for a file that cannot be read, or is no JSON."""
    name, schema = args.json_schema, None
    if name is not None:
        try:
            schema = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
            json.loads(schema)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--json-schema {name}: {error}; expected a file with a JSON schema, or '-'") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"--json-schema {name}: not JSON ({error}); expected a JSON schema") from None
    return {"json_schema": schema, "regex": args.regex, "choices": args.choice}


def has_form(args: argparse.Namespace) -> bool:
    """True if answers are held to a form."""
    return args.json_schema is not None or args.regex is not None or args.choice is not None
