"""A server that runs, asked by a command: `--server` and `--api-key`."""

from __future__ import annotations

import argparse
import json
import os
import urllib.error
import urllib.request
from typing import Any

SERVER = "http://127.0.0.1:8000"
MOST_BYTES = 16 << 20


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which server is asked."""
    parser.add_argument("--server", default=SERVER, metavar="URL", help=f"the server that is asked (default {SERVER})")
    parser.add_argument("--api-key", metavar="KEY", default=os.environ.get("WAVEFOLD_API_KEY"),
                        help="where it wants one (default: the variable WAVEFOLD_API_KEY)")  # fmt: skip


def add_model_there(parser: argparse.ArgumentParser) -> None:
    """Add the name of a model that a server offers, and the server."""
    parser.add_argument("name", metavar="NAME", help="as `wavefold models` prints it")
    add_server(parser)


def change_model(args: argparse.Namespace, way: str) -> int:
    """Has a model loaded or unloaded, and prints its state. Raises ValueError with the server's words."""
    model = ask(args, f"/v1/wavefold/models/{way}", {"model": args.name})
    print(f"{model['name']}: {model['state']}")
    return 0


def ask(args: argparse.Namespace, path: str, body: dict[str, Any] | None = None) -> Any:
    """Returns the JSON of a server's answer. Raises ValueError with its words, or where none can be reached."""
    if not args.server.startswith(("http://", "https://")):
        raise ValueError(f"--server {args.server} is not allowed; expected an address such as {SERVER}")
    headers = {"content-type": "application/json"}
    if args.api_key:
        headers["authorization"] = f"Bearer {args.api_key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(args.server.rstrip("/") + path, data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is asked, no proxy of the web's
    try:
        with opener.open(request) as answer:
            return json.loads(answer.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        raise ValueError(f"{args.server}: {_words(error)}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{args.server}: no server answers there ({error}); start it with wavefold serve") from None


def _words(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(MOST_BYTES))["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP status {error.code}"
