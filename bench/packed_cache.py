"""The cost of a packed cache in quality: KL and top-1 agreement on held-out text, beside that of bfloat16 alone.

    python bench/packed_cache.py [MODEL] [--tokens 10000] [--data stdlib]

One sequence of held-out files, read through the cache in passes of 1,024 tokens. KL(P || Q) in nats a token, P being
the first of each pair. Released arithmetic rounds before it caches: its packed cache must change no bit, and the exit
code is 1 if it does. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from wavefold.bench.circumstances import circumstances
from wavefold.bench.pools import records_named
from wavefold.chat.tokenizer import Tokenizer
from wavefold.checkpoint import load
from wavefold.data.corpus import load_corpus
from wavefold.locate import default_model

RUNS = {
    "float32": ("exact", "float32", "float32"),
    "bfloat16": ("exact", "bfloat16", "bfloat16"),
    "bfloat16, packed cache": ("exact", "bfloat16", "packed"),
    "released, bfloat16 cache": ("released", "bfloat16", "bfloat16"),
    "released, packed cache": ("released", "bfloat16", "packed"),
}
PAIRS = [
    ("bfloat16", "bfloat16, packed cache"),
    ("released, bfloat16 cache", "released, packed cache"),
    ("float32", "bfloat16"),
    ("float32", "released, packed cache"),
]


def logits_of(folder: Path, run: str, tokens: Tensor) -> Tensor:
    """[n, vocab] float32, through the cache."""
    arithmetic, dtype, records = RUNS[run]
    model = load(folder, arithmetic, getattr(torch, dtype))
    pool = model.new_pool(len(tokens), records_named(model.config, records)[0])
    sequence = pool.open()
    return torch.cat([model.logits(model.extend(part, [sequence], [len(part)])) for part in tokens.split(1024)])


def compare(p: Tensor, q: Tensor) -> tuple[float, float, bool]:
    """Mean KL(P || Q) in nats, share of equal best tokens, and True if every logit is equal."""
    kl = 0.0
    for left, right in zip(p.split(1024), q.split(1024), strict=True):
        log_p, log_q = left.double().log_softmax(-1), right.double().log_softmax(-1)
        kl += float((log_p.exp() * (log_p - log_q)).sum())
    return kl / len(p), float((p.argmax(-1) == q.argmax(-1)).double().mean()), torch.equal(p, q)


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a model's folder (default: the shipped one)")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--tokens", type=int, default=10_000)
    args = parser.parse_args()
    folder = args.model or default_model()
    tokenizer = Tokenizer.load(folder)
    ids: list[int] = []
    for document in load_corpus(args.data).held_out:
        ids += tokenizer.encode_document(document.text)
    if not 0 < args.tokens <= len(ids):
        parser.error(f"--tokens {args.tokens} is not allowed; the held-out files have {len(ids)}")
    tokens = torch.tensor(ids[: args.tokens])
    logits = {run: logits_of(folder, run, tokens) for run in RUNS}
    table = Table("P", "Q", "KL, nats a token", "top-1 equal", "all logits equal", title=f"{args.tokens:,} tokens")
    pairs = []
    for p, q in PAIRS:
        kl, top1, equal = compare(logits[p], logits[q])
        table.add_row(p, q, f"{kl:.2e}", f"{100 * top1:.2f} %", "yes" if equal else "no")
        pairs.append({"p": p, "q": q, "kl": kl, "top1": top1, "equal": equal})
    Console().print(table)
    about = {"bench": "packed_cache", "model": str(folder), "tokens": args.tokens}
    print(json.dumps(circumstances(1) | about | {"pairs": pairs}))
    return 0 if pairs[1]["equal"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
