"""`wavefold convert`: another layout, with every routed expert in the format that it has."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavefold.cli.quantize import check_out, types_of, write
from wavefold.cli.terminal import bar
from wavefold.gguf import is_gguf
from wavefold.locate import model_folder, model_path

HELP = "write a model in another layout, its routed experts unchanged"

SAME = {"fp4": "mxfp4", "fp8": "q8_0", "bf16": "bf16", "fp32": "bf16"}
"""The type of GGUF for a format of the official layout."""
KEPT = ("fp4", "bf16")
"""Formats whose values it keeps; those of the others are rounded."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a checkpoint folder in the official layout, or NAME.gguf"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="NAME.gguf for a folder, a folder for a GGUF file")
    parser.add_argument("--dense", metavar="TYPE",
                        help="the type in GGUF of FP8 matrices outside the experts (default q8_0, as llama.cpp has "
                        "them; bf16 keeps their values)")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace OUT")


def run(args: argparse.Namespace) -> int:
    """Write the file or the folder."""
    if is_gguf(args.model):
        return to_folder(args)
    if not is_gguf(args.out):
        raise ValueError(f"{args.out} is not allowed; expected a name ending in .gguf")
    check_out(args.out, args.force)
    from wavefold.quantize.export import Export
    from wavefold.quantize.source import Source

    source = Source(model_folder(args.model))
    form = source.expert_format()
    if form not in KEPT:
        print(f"experts: {form} is rounded to {SAME[form]}")
    write(Export(source, types_of(SAME[form], source), dense=args.dense or "q8_0"), args.out)
    return 0


def to_folder(args: argparse.Namespace) -> int:
    """Write a GGUF file as a folder."""
    if is_gguf(args.out):
        raise ValueError(f"{args.out} is not allowed for a GGUF file; expected a folder, in the official layout")
    if args.dense:
        raise ValueError(
            f"--dense {args.dense} is not allowed for a GGUF file; a folder keeps values, or holds bfloat16"
        )
    check_out(args.out, args.force)
    from wavefold.checkpoint import load
    from wavefold.checkpoint.unpack import unpack

    model = load(model_path(args.model))
    with bar("shards") as advance:
        rounded = unpack(model, args.out, advance)
    num_bytes = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {num_bytes:,} bytes")
    if rounded:
        counts = ", ".join(f"{name} x {count}" for name, count in rounded.items())
        print(f"rounded to bfloat16: {counts} matrices")
    return 0
