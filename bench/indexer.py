"""The share of attention's mass on the indexer's choice, if a CSA layer could attend to all entries.

    python bench/indexer.py MODEL... [--contexts 2048 8192]

Attention is dense; for each query that sees more entries than it may choose, the mass on its indexer's top-k over the
mass on all entries, summed over heads and queries. Held-out files of the standard library, windows of each context.
`at random` is the share of as many entries chosen at random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from wavefold.bench.circumstances import append, circumstances
from wavefold.chat import Tokenizer
from wavefold.checkpoint import load
from wavefold.config import CSA
from wavefold.data.batches import pack
from wavefold.data.corpus import load_corpus
from wavefold.locate import DEFAULT_MODEL
from wavefold.model.batch import num_visible
from wavefold.train.objective import Objective, captured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", default=[DEFAULT_MODEL], help="checkpoints (the shipped one)")
    parser.add_argument("--contexts", type=int, nargs="+", default=[2048, 8192], help="tokens (2048 8192)")
    parser.add_argument("--windows", type=int, default=6, help="windows of each context, at most (6)")
    parser.add_argument("--data", default="stdlib", help="whose held-out documents")
    parser.add_argument("--out", type=Path, default=Path("runs/indexer.jsonl"))
    args = parser.parse_args()
    documents = load_corpus(args.data).held_out
    lines = []
    for folder in args.models:
        model = load(folder, "released")
        tokenizer = Tokenizer.load(folder)
        texts = [tokenizer.encode_document(d.text) for d in documents]
        for context in args.contexts:
            windows = [
                ids[first : first + context + 1] for ids in texts for first in range(0, len(ids) - context, context)
            ]
            line = measure(Objective(model), windows[: args.windows], model.config.index_topk)
            print(
                f"{folder}  {context} tokens, {line['windows']} windows: "
                + "   ".join(f"layer {n}: {share:.1%}" for n, share in line["captured"].items())  # type: ignore[union-attr]
                + f"   at random {line['at_random']:.1%}"
            )
            lines.append({"bench": "indexer", "model": str(folder), "context": context, **line, **circumstances(1)})
    append(args.out, lines)


def measure(objective: Objective, windows: list[list[int]], topk: int) -> dict[str, object]:
    """Captured share by layer, over some windows of one length."""
    visible = num_visible(torch.arange(len(windows[0]) - 1), CSA) if windows else torch.ones(1)
    visible = visible[visible > topk]
    return {
        "captured": captured(objective, [pack([np.array(window)]) for window in windows]),
        "at_random": float((topk / visible).mean()) if len(visible) else 1.0,
        "windows": len(windows),
    }


if __name__ == "__main__":
    main()
