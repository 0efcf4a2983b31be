"""Bits per byte of a model on the corpus's held-out files, beside `xz -9` and `gzip -9` on the same bytes.

    python bench/held_out.py MODEL [--data stdlib] [--arithmetic exact] [--dtype bfloat16] [--seq-len 1024]

Each file is read in pieces of `seq-len` tokens, without the text before them. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from wavefold.bench.circumstances import circumstances
from wavefold.chat.tokenizer import Tokenizer
from wavefold.checkpoint import load
from wavefold.data.corpus import load_corpus
from wavefold.quality.worth.bits import nats_by_file
from wavefold.train.report import held_out_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--arithmetic", default="exact")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--seq-len", type=int, default=1024)
    args = parser.parse_args()
    tokenizer = Tokenizer.load(args.model)
    model = load(args.model, args.arithmetic, getattr(torch, args.dtype))
    documents = load_corpus(args.data).held_out
    nats, tokens = map(sum, zip(*nats_by_file(model, tokenizer, documents, args.seq_len), strict=True))
    report = held_out_report(nats / tokens, round(tokens), documents)
    table = Table("arithmetic", "bytes", "model", "xz -9", "gzip -9", title="held-out files, bits per byte")
    figures = (f"{value:.4f}" for value in (report.model, report.xz, report.gzip))
    table.add_row(str(model.arithmetic), str(report.num_bytes), *figures)
    Console().print(table)
    line = circumstances(1) | {"bench": "held_out", "arithmetic": str(model.arithmetic)}
    print(json.dumps(line | asdict(report)))


if __name__ == "__main__":
    main()
