"""MODEL on the command line and how it computes: `--arithmetic` and `--dtype`, one default for all commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavefold.cli.flags import as_flags
from wavefold.cli.ranks import over_ranks

DISK_CACHE = "20G"

if TYPE_CHECKING:
    import torch

    from wavefold.model import Transformer


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, by default the shipped one."""
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL",
                        help="a checkpoint folder or GGUF file (default: the shipped model)")  # fmt: skip


def add_arithmetic(parser: argparse.ArgumentParser) -> None:
    """Add `--arithmetic`. Its default is the library's, which is looked up when the command runs."""
    parser.add_argument(
        "--arithmetic", choices=("exact", "released"),
        help="the architecture's own mathematics, or DeepSeek's rounding (default released)",
    )  # fmt: skip


def add_activations(parser: argparse.ArgumentParser) -> None:
    """Add `--activations`."""
    parser.add_argument(
        "--activations", choices=("bf16", "int8"), default="bf16",
        help="into products with FP4 and FP8 matrices: as the arithmetic says (default), or rounded to 8 bits, which "
        "reads prompts faster on the CPU's kernels in bfloat16",
    )  # fmt: skip


def add_huge_pages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--huge-pages", action="store_true",
                        help="copy weights into memory of 2 MiB pages, which must have room for them (default: map the "
                        "files)")  # fmt: skip


def add_memory(parser: argparse.ArgumentParser, prefix: bool = False) -> None:
    """Add `--memory`, and with `prefix` the flags of the prefix cache on disk."""
    parser.add_argument("--memory", metavar="SIZE",
                        help="the most resident memory, of each process under torchrun, as 24G: routed experts that do "
                        "not fit are read from the files as they are needed (default: 80 %% of what is allowed, for "
                        "larger models; under torchrun files are mapped)")  # fmt: skip
    if prefix:
        _add_prefix(parser)


def _add_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--disk-cache", metavar="SIZE",
                        help="keep what was read on disk, as 20G at most: a prompt that begins like an earlier one, of "
                        "this process or one before, goes on from there (default: nothing outlives the process; 20G "
                        "with --cache-dir)")  # fmt: skip
    parser.add_argument("--cache-dir", type=Path, metavar="DIR",
                        help="where it is kept (default: ~/.cache/wavefold/prefix)")  # fmt: skip
    parser.add_argument("--snapshot-every", type=int, metavar="N",
                        help="keep a state to go on from after every N tokens of a prompt, a multiple of 128 (default "
                        "2048): a smaller N computes less again, and costs memory and disk")  # fmt: skip


def prefix_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `LLM` that say what is kept of prompts, and whether it outlives the process; none: no flag does.

    Raises ValueError for --snapshot-every where nothing is kept.
    """
    from wavefold.cli.folders import prefix_folder

    kept: dict[str, Any] = {}
    if args.snapshot_every is not None:
        if over_ranks(args) is not None or not getattr(args, "device", "cpu").startswith("cpu"):
            raise ValueError(
                f"--snapshot-every {args.snapshot_every} is not allowed over several processes or on another device "
                "than a CPU, where no prompt is kept; leave it out"
            )
        kept["snapshot_every"] = args.snapshot_every
    if args.cache_dir is not None or args.disk_cache is not None:
        kept |= {"cache_dir": args.cache_dir or prefix_folder(), "disk_cache": args.disk_cache or DISK_CACHE}
    return kept


def arithmetic_of(args: argparse.Namespace) -> str:
    """The arithmetic of `--arithmetic`, or the default one."""
    from wavefold.ops import DEFAULT_ARITHMETIC  # imports torch, which help does without

    return args.arithmetic or DEFAULT_ARITHMETIC


def dtype_of(name: str | None) -> torch.dtype | None:
    """The dtype of `--dtype`; None where the flag was not given."""
    import torch

    return None if name is None else getattr(torch, name)


def model_of(
    folder: Path, arithmetic: str, dtype: str | None, device: str = "cpu", threads: int | None = None,
    activations: str = "bf16", huge_pages: bool = False,
) -> Transformer:  # fmt: skip
    """The model in `folder`, for the benches. Raises ValueError for flags that cannot be used."""
    from wavefold.engine.open import open_model
    from wavefold.ops.threads import use_threads

    with as_flags():
        use_threads(threads)
        return open_model(folder, arithmetic, dtype_of(dtype), device, activations=activations, huge_pages=huge_pages)
