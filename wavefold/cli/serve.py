"""`wavefold serve`: the model over HTTP, with the protocols of OpenAI's and Anthropic's clients."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.models import (
    add_activations,
    add_arithmetic,
    add_huge_pages,
    add_memory,
    add_model,
    arithmetic_of,
    prefix_of,
)  # fmt: skip
from wavefold.cli.tuning import add_tuning, tuned
from wavefold.system.sizes import bytes_of, gib

if TYPE_CHECKING:
    from wavefold.llm import LLM
    from wavefold.server.keys import Keys
    from wavefold.server.models import Models
    from wavefold.server.pool import PooledModels

HELP = "serve a model over HTTP, for the clients of OpenAI and Anthropic and for a browser"
HOST, PORT = "127.0.0.1", 8000
WIDTH = 16
MAX_QUEUE = 64
MAX_BODY = "8M"
DRAIN_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--models", type=Path, metavar="DIR",
                        help="offer all models of a folder: a request's model is loaded, those that nobody uses leave "
                        "for it; --memory is of all together (docs/models.md)")  # fmt: skip
    _add_network(parser)
    _add_limits(parser)
    parser.add_argument("--name", action="append", metavar="NAME",
                        help="the model's name in requests; again for other names of it (default: the folder's name, "
                        "'wavefold' for the shipped model)")  # fmt: skip
    parser.add_argument("--profile", metavar="NAME",
                        help="how chats become prompts (default: by what lies beside the weights)")  # fmt: skip
    parser.add_argument("--width", type=int, default=WIDTH, metavar="N",
                        help=f"answers that are computed together, at most; others wait (default {WIDTH})")  # fmt: skip
    parser.add_argument("--cache-tokens", type=int, metavar="N",
                        help="tokens of all answers and of cached prompts together (default: as many as suit; with "
                        "--models 32,768 of each)"
    )  # fmt: skip
    parser.add_argument("--draft-depth", type=int, default=0, metavar="N",
                        help="tokens that are guessed and verified in one pass, at most (default 0)")  # fmt: skip
    parser.add_argument("--batch-invariant", action="store_true",
                        help="each answer is the one that its request has alone, to the bit")  # fmt: skip
    parser.add_argument("--jobs", type=Path, metavar="DIR",
                        help="work on the queue in DIR while nobody asks, and offer it as /v1/files and /v1/batches"
    )  # fmt: skip
    add_memory(parser, prefix=True)
    add_arithmetic(parser)
    add_activations(parser)
    add_huge_pages(parser)
    add_tuning(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one a core)")


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who may ask")
    group.add_argument("--host", default=HOST, metavar="ADDRESS",
                       help=f"where it listens (default {HOST}: this machine alone)")  # fmt: skip
    group.add_argument("--port", type=int, default=PORT, metavar="N", help=f"0: any free one (default {PORT})")
    group.add_argument("--api-key-file", type=Path, metavar="FILE",
                       help="hashes of the API keys that are accepted (default: nobody is asked for a key)"
    )  # fmt: skip
    group.add_argument("--new-api-key", type=Path, metavar="FILE",
                       help="make a key, print it, append its hash to FILE, and end")  # fmt: skip
    group.add_argument("--allow-host", action="append", default=[], metavar="NAME",
                       help="a name that a server on loopback answers to, as that of a proxy before it")  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--max-queue", type=int, default=MAX_QUEUE, metavar="N",
                       help=f"requests that wait, at most; more are answered with 429 (default {MAX_QUEUE})"
    )  # fmt: skip
    group.add_argument("--max-body", default=MAX_BODY, metavar="SIZE",
                       help=f"the largest body of a request (default {MAX_BODY})")  # fmt: skip
    group.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS, metavar="S",
                       help=f"after SIGTERM, for answers that run to end (default {DRAIN_SECONDS:g})")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serves until a signal comes; or makes a key."""
    if args.new_api_key is not None:
        from wavefold.server.keys import new_key

        print(new_key(args.new_api_key))
        return 0
    check_flags(args)
    with tuned(args.tuning, args.threads, measures=False):
        return serve(args)


def check_flags(args: argparse.Namespace) -> None:
    """Raises ValueError for flags out of range, and under torchrun."""
    from wavefold.waves.agreement import num_ranks

    if num_ranks() > 1:
        raise ValueError("serve runs in one process; start it without torchrun")
    for flag, value, least in (("--max-queue", args.max_queue, 0), ("--drain-seconds", args.drain_seconds, 0)):
        if not least <= value <= 86_400:
            raise ValueError(f"{flag} {value} is not allowed; expected {least} to 86400")
    if not 0 <= args.port <= 65_535:
        raise ValueError(f"--port {args.port} is not allowed; expected 0 to 65535")
    if not 1 <= (size := bytes_of(args.max_body, "--max-body")) <= 2**30:
        raise ValueError(f"--max-body {args.max_body} is {size:,} bytes; expected 1 to 1G")


def serve(args: argparse.Namespace) -> int:
    try:
        from wavefold.server.app import Limits, new_app
        from wavefold.server.run import Server, listen, more_files, settle

        if args.jobs is not None:
            importlib.import_module("wavefold.server.jobs")  # which reads uploads by a package of its own
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("wavefold"):
            raise
        raise ValueError(f"serve needs {error.name}; install it with pip install 'wavefold[serve]'") from None
    keys = _keys(args)
    if args.jobs is not None:
        from wavefold.jobs.worker import check_queue

        check_queue(args.jobs)
    limits = Limits(
        bytes_of(args.max_body, "--max-body"), args.max_queue, args.host, tuple(args.allow_host), keys, args.jobs
    )
    with listen(args.host, args.port) as listening, offered(args) as (models, words):
        more_files()
        server = Server(*new_app(models, limits), args.drain_seconds)
        settle()
        place = f"[{args.host}]" if ":" in args.host else args.host
        print(f"{words} at http://{place}:{listening.getsockname()[1]}", file=sys.stderr)
        server.run([listening])
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt
    return 0


@contextlib.contextmanager
def offered(args: argparse.Namespace) -> Iterator[tuple[Models, str]]:
    """The models that are served, and what is said of them."""
    from wavefold.server.contexts import context_for
    from wavefold.server.model import Model
    from wavefold.server.models import OneModel

    if args.models is not None:
        pool = pool_of(args)
        yield pool, f"{args.models}: {len(pool.names)} models are served"
        return
    with open_llm(args) as llm:
        names = tuple(args.name or [llm.folder.stem if args.model is not None else "wavefold"])
        model = Model(llm, context_for(llm, names, args.profile))
        yield OneModel(model), f"{llm.model.path}: served as {names[0]}"


def pool_of(args: argparse.Namespace) -> PooledModels:
    """The models of a folder. Raises ValueError for a folder and flags that cannot be used."""
    from wavefold.cli.flags import as_flags
    from wavefold.engine.budget import DEFAULT_SHARE
    from wavefold.ops.threads import use_threads
    from wavefold.server.opening import Opening
    from wavefold.server.pool import PooledModels
    from wavefold.system import memory_bytes

    for flag, value in (("MODEL", args.model), ("--name", args.name)):
        if value is not None:
            raise ValueError(f"{flag} and --models are not allowed together; the folder's models have its names")
    most = memory_bytes()
    memory = int(DEFAULT_SHARE * most) if args.memory is None else bytes_of(args.memory, "--memory")
    if memory > most:
        raise ValueError(f"--memory {args.memory} is not allowed; this process may have {gib(most)}")
    with as_flags("cache_tokens", "draft_depth"):
        use_threads(args.threads)
        settings = {"batch_invariant": args.batch_invariant, "activations": args.activations,
                    "huge_pages": args.huge_pages, **prefix_of(args)}  # fmt: skip
        opening = Opening(arithmetic_of(args), args.width, args.cache_tokens, args.draft_depth, args.profile, settings)
        return PooledModels(args.models, memory, opening)


def _keys(args: argparse.Namespace) -> Keys:
    """Returns the accepted keys. Says so where others than this machine's users may ask without one."""
    import warnings

    from wavefold.server.hosts import is_loopback
    from wavefold.server.keys import Keys
    from wavefold.system import Notice

    if args.api_key_file is not None:
        return Keys.read(args.api_key_file)
    if not is_loopback(args.host):
        warnings.warn(f"--host {args.host}: whoever reaches this machine may ask, without a key; give "
                      "--api-key-file, whose keys --new-api-key makes", Notice, stacklevel=2)  # fmt: skip
    return Keys()


def open_llm(args: argparse.Namespace) -> LLM:
    from rich.console import Console

    from wavefold.cli.budget import print_budget
    from wavefold.cli.flags import as_flags
    from wavefold.llm import LLM
    from wavefold.ops.threads import use_threads

    with as_flags("cache_tokens", "draft_depth"):
        use_threads(args.threads)
        llm = LLM(
            args.model, arithmetic_of(args), batch_invariant=args.batch_invariant, activations=args.activations,
            huge_pages=args.huge_pages, cache_tokens=args.cache_tokens, draft_depth=args.draft_depth,
            memory=args.memory, width=args.width, **prefix_of(args),
        )  # fmt: skip
    if llm.budget is not None:
        print_budget(Console(stderr=True), llm.budget)
    return llm
