"""`wavefold merge`: an adapter becomes part of its base's weights, in the format that they have."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavefold.atomic import write_json
from wavefold.cli.quantize import check_out
from wavefold.gguf import is_gguf
from wavefold.locate import model_folder

HELP = "write a base with an adapter merged into its weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="BASE", help="a checkpoint folder in the official layout")
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="a folder in PEFT's layout")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write, in the official layout")
    parser.add_argument("--force", action="store_true", help="replace OUT")


def run(args: argparse.Namespace) -> int:
    """Write the folder, and say how much of the adapter the format of the base keeps."""
    if is_gguf(args.model) or is_gguf(args.out):
        raise ValueError("BASE and OUT are folders in the official layout; `wavefold convert` makes one of a GGUF file")
    check_out(args.out, args.force)
    from wavefold.checkpoint import load, save
    from wavefold.checkpoint.adapter import read_adapter
    from wavefold.checkpoint.merge import merge
    from wavefold.checkpoint.side_files import GENERATION_CONFIG
    from wavefold.engine.defaults import joined_defaults
    from wavefold.train.kept_delta import kept_report

    model = load(model_folder(args.model))
    adapter = read_adapter(args.adapter, model.config)
    defaults = joined_defaults(model_folder(args.model), args.adapter, model.config.vocab_size)
    products = merge(model, adapter)

    def add_defaults(folder: Path) -> None:
        if defaults is not None:
            write_json(folder / GENERATION_CONFIG, defaults.to_dict())

    save(model, args.out, add_files=add_defaults)
    report = kept_report(products)
    kept = "it changes nothing" if report["kept"] is None else f"{report['kept']:.3f} of its delta is kept"
    print(f"{args.out}: {len(products)} matrices adapted by {adapter.name}; {kept}")
    return 0
