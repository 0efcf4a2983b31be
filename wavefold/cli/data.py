"""`wavefold data fetch|shards|card|lock`: the packages that a run can learn from."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

HELP = "fetch the packages that train --data stdlib+packages reads, and make token shards of them"
ACTIONS = {
    "fetch": "download the listed archives by pip's settings, check hashes and licences, and keep their documents",
    "shards": "make tokenizers and token shards of the standard library and the packages; the list says their hashes",
    "card": "print the data card that the list makes",
    "lock": "fill in the list anew from names and versions (for whoever changes it)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        if name in ("fetch", "lock"):
            action.add_argument("--archives", type=Path, metavar="DIR", help="where archives are kept; those in it are "
                                "not downloaded (default: archives in the cache folder of wavefold)")  # fmt: skip
        if name == "shards":
            action.add_argument("--vocab", type=int, nargs="+", default=[4096], metavar="N",
                                help="sizes of vocabularies (default 4096)")  # fmt: skip
            action.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets a folder for each size")
            action.add_argument("--record", action="store_true", help="write the hashes into the list")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for archives, documents and shards that are not those of the list."""
    return {"fetch": fetch_packages, "shards": make_shards, "card": print_card, "lock": lock_list}[args.action](args)


def fetch_packages(args: argparse.Namespace) -> int:
    from wavefold.data.corpus import packages_file
    from wavefold.data.packages.documents import build
    from wavefold.data.packages.fetch import fetch
    from wavefold.data.packages.listing import read_listing

    listing, archives = read_listing(), archives_folder(args)
    fetch(listing.packages, archives, print)
    train, held_out = build(listing, archives, packages_file(), print)
    print(f"{packages_file()}: {len(train)} documents to learn from, {len(held_out)} held out, as listed")
    print(f"{archives} is not needed any more")
    return 0


def make_shards(args: argparse.Namespace) -> int:
    from wavefold.data.corpus import load_corpus
    from wavefold.data.packages import tokens
    from wavefold.data.packages.listing import PACKAGES_LIST, read_listing, write_listing

    listing, corpus = read_listing(), load_corpus("stdlib+packages")
    share, often = tokens.HELD_OUT_SHARE, {document.name for document in load_corpus("stdlib").train}
    chats = (tokens.chats_of(tokens.sampled(corpus.train, tokens.ASKED), tokens.CHATS, tokens.EXERCISES),
             tokens.chats_of(corpus.held_out, tokens.CHATS // share, tokens.EXERCISES // share))  # fmt: skip
    print(f"{len(chats[0])} chats to learn from, {len(chats[1])} held out")
    for size in args.vocab:
        hashes = tokens.build_shards(args.out / str(size), corpus, chats, size, print, often)
        if args.record:
            listing = replace(listing, shards={**listing.shards, str(size): hashes})
            write_listing(PACKAGES_LIST, listing)
        elif str(size) not in listing.shards:
            print(f"{args.out / str(size)}: the list has no hashes of a vocabulary of {size}")
        elif hashes != listing.shards[str(size)]:
            raise ValueError(f"{args.out / str(size)}: hashes {hashes} are not those of the list, "
                             f"{listing.shards[str(size)]}; it was made under Python {listing.python}")  # fmt: skip
        else:
            print(f"{args.out / str(size)}: as listed")
    return 0


def print_card(args: argparse.Namespace) -> int:
    from wavefold.data.packages.card import card
    from wavefold.data.packages.listing import read_listing

    print(card(read_listing()), end="")
    return 0


def lock_list(args: argparse.Namespace) -> int:
    from wavefold.data.corpus import load_corpus, packages_file
    from wavefold.data.packages.listing import PACKAGES_LIST, read_listing, write_listing
    from wavefold.data.packages.lock import lock

    stdlib = load_corpus("stdlib")
    others = [(document.name, document.text) for document in (*stdlib.held_out, *stdlib.train)]
    write_listing(PACKAGES_LIST, lock(read_listing(), archives_folder(args), packages_file(), others, print))
    print(f"{PACKAGES_LIST}: written; hashes of shards are gone (wavefold data shards --record)")
    return 0


def archives_folder(args: argparse.Namespace) -> Path:
    """The folder of `--archives`, by default one in the cache folder."""
    from wavefold.system.folders import cache_folder

    return args.archives or cache_folder() / "archives"
