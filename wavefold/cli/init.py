"""`wavefold init`: a random checkpoint with real shapes and formats, whole or a slice of one."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavefold.cli.terminal import bar
from wavefold.config import preset_names
from wavefold.locate import config_of

HELP = "make a random checkpoint, untrained, for tests and benches"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE|PRESET",
                        help=f"a config.json, a folder with one, or a preset: {', '.join(preset_names())}")  # fmt: skip
    parser.add_argument("--layers", type=int, metavar="N", help="only the first N layers")
    parser.add_argument("--experts", type=int, metavar="N", help="N routed experts in a layer")
    parser.add_argument("--vocab", type=int, metavar="N", help="a vocabulary of N tokens")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--force", action="store_true", help="replace DIR if it holds a checkpoint already")


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint, with a tokenizer of bytes where the vocabulary has room for one."""
    config = config_of(args.config).cut(args.layers, args.experts, args.vocab)
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} is not allowed; expected 0 or more")
    out: Path = args.out
    if out.is_dir() and any(out.iterdir()) and not args.force:
        raise ValueError(f"{out}: is not empty; give another folder, or --force to replace the checkpoint in it")

    from wavefold.chat import byte_tokenizer
    from wavefold.checkpoint import random_checkpoint

    tokenizer = byte_tokenizer()
    has_tokenizer = tokenizer.vocab_size <= config.vocab_size

    def finish(folder: Path) -> None:
        if has_tokenizer:
            tokenizer.save(folder)

    with bar("shard") as advance:
        random_checkpoint(config, out, args.seed, advance, finish)
    num_bytes = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {config.num_hidden_layers} layers, {config.n_routed_experts} experts, {num_bytes / 1e6:,.1f} MB")
    if not has_tokenizer:
        print(f"no tokenizer: {tokenizer.vocab_size} tokens do not fit a vocabulary of {config.vocab_size}; "
              "use `wavefold run --tokens`")  # fmt: skip
    return 0
