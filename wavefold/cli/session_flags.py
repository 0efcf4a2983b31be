"""The flags that `wavefold run` and `wavefold chat` share: which model, how it computes, how answers are chosen."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavefold.cli.models import add_activations, add_arithmetic, add_huge_pages, add_memory
from wavefold.cli.tuning import add_tuning


def add_choosing(parser: argparse.ArgumentParser, max_tokens: str) -> None:
    """Add how answers are chosen. `max_tokens`: the help of the default number."""
    parser.add_argument("--show-special", action="store_true",
                        help="print special tokens in answers too (default: left out, but for <think> and </think>)"
    )  # fmt: skip
    parser.add_argument("--max-tokens", type=int, metavar="N",
                        help=f"longest answer (default: the model's generation_config.json, else {max_tokens}, cut to "
                        "what is left of the context window; a number of yours is refused where it does not fit)"
    )  # fmt: skip
    parser.add_argument("--temperature", type=float, metavar="T",
                        help="0 always takes the most likely token (default: the adapter's or the model's, else 1)"
    )  # fmt: skip
    parser.add_argument("--top-p", type=float, metavar="P",
                        help="keep only the most likely tokens, up to probability P (default: the model's, else 1)"
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling (default 0)")


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Add how the model computes, and what it may use."""
    parser.add_argument("--adapter", type=Path, metavar="DIR",
                        help="an adapter in PEFT's layout, which answers go through; the model stays as it is"
    )  # fmt: skip
    parser.add_argument("--draft-depth", type=int, default=0, metavar="N",
                        help="tokens that are guessed and verified in one pass, at most; how many is decided by "
                        "measured time (default 0)")  # fmt: skip
    add_arithmetic(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"),
                        help="of the activations (default: bfloat16 for released, float32 for exact)")  # fmt: skip
    parser.add_argument("--batch-invariant", action="store_true",
                        help="the same bits however tokens arrive, in one pass or one by one: bfloat16 "
                        "on the CPU's kernels; slower prompts"
    )  # fmt: skip
    add_activations(parser)
    add_tuning(parser)
    add_huge_pages(parser)
    add_memory(parser, prefix=True)
    parser.add_argument("--strict", action="store_true",
                        help="refuse a checkpoint with tensors that the model does not use (default: say so and go "
                        "on)")  # fmt: skip
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--kernels", choices=("tilelang",),
                        help="of routed experts on a GPU: TileLang's, which were never timed on a chip (default: plain "
                        "torch)")  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one a core)")


def add_thinking(parser: argparse.ArgumentParser, of: str = "") -> None:
    parser.add_argument("--think", action="store_true",
                        help=f"{of}the model reasons before it answers, if it has learned to; earlier reasoning is not "
                        "shown to it")  # fmt: skip
