"""Held-out loss against bits of routed experts: our quantizer beside llama.cpp's with the same importance data.

    python bench/bits_curve.py MODEL --llama-quantize BINARY [--types iq2_xxs q2_k q3_k q4_k q6_k] [--tokens 32768]
        [--windows 16] [--length 512] [--budgets q2_k q3_k] [--svg FILE] [--out FILE]

Importance comes from the corpus's training files, losses from its held-out files: windows of different files, each a
new sequence. llama.cpp reads the importance as `--imatrix` and our MXFP4 file; all tensors but routed experts are the
same in both files. Every file is run by our engine's model in exact float32. `--budgets`: types by measured loss in a
file with the bytes of that uniform type. KL is to the folder MODEL.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from wavefold import load
from wavefold.bench.circumstances import append, circumstances
from wavefold.chat import Tokenizer
from wavefold.data.corpus import load_corpus
from wavefold.experts.table import MATRICES
from wavefold.gguf.header import read_header
from wavefold.quant.encode import TYPES
from wavefold.quantize.export import Export
from wavefold.quantize.importance import Importance
from wavefold.quantize.mixed import Place, choose, measure
from wavefold.quantize.observe import observe
from wavefold.quantize.source import Source

KEPT = {"attn_compressor_(gate|kv)": "bf16", "indexer_compressor_(gate|kv)": "bf16", "indexer.proj": "bf16",
        "hc_": "f32", "ape": "f32"}  # fmt: skip
"""Types that llama-quantize would change otherwise."""
WINDOWS_OF_FILE = 2
BATCH = 4
COLORS = {"wavefold": "#1f77b4", "llama.cpp": "#d62728", "budget": "#2ca02c"}
LABELS = {"wavefold": "wavefold", "llama.cpp": "llama.cpp", "budget": "types by loss"}


class Text:
    """Windows of held-out files, and what the folder's model says about them."""

    def __init__(self, model: Path, windows: int, length: int):
        self.windows = list(itertools.islice(_windows(model, length), windows))
        self.logits = self._run(model)

    def measure(self, model: Path) -> dict[str, float]:
        """Returns a model's mean loss, KL to the folder's and share of equal first choices."""
        found = self._run(model)
        targets = torch.tensor([window[1:] for window in self.windows]).flatten()
        rows = found.view(len(self.windows), -1, found.shape[1])[:, :-1].flatten(0, 1)
        kl = (self.logits.exp() * (self.logits - found)).sum(1).mean()
        return {
            "nll": -float(rows.gather(1, targets[:, None]).mean()), "kl": float(kl),
            "top1": float((found.argmax(1) == self.logits.argmax(1)).float().mean()),
        }  # fmt: skip

    def _run(self, path: Path) -> Tensor:
        """Returns log-probabilities [windows * length, vocab]."""
        model = load(path, "exact", torch.float32)
        batches = (self.windows[at : at + BATCH] for at in range(0, len(self.windows), BATCH))
        with torch.no_grad():
            return torch.cat([model(torch.tensor(batch)).flatten(0, 1) for batch in batches]).log_softmax(1)


def _windows(model: Path, length: int) -> Iterator[list[int]]:
    tokenizer = Tokenizer.load(model)
    for document in load_corpus("stdlib").held_out:
        ids = tokenizer.encode(document.text, bos=True)
        for start in range(0, min(len(ids) - length, WINDOWS_OF_FILE * length), length):
            yield ids[start : start + length]


def importance_of(model: Path, tokens: int, path: Path) -> Importance:
    """Returns the importance of training files, as many tokens of each."""
    tokenizer, ids = Tokenizer.load(model), []
    for document in load_corpus("stdlib").train:
        ids += tokenizer.encode(document.text[:6000], bos=True)[:512]
        if len(ids) >= tokens:
            break
    return observe(load(model), ids[:tokens], path)


def llama_cpp(binary: Path, imatrix: Path, source: Path, out: Path, name: str) -> None:
    """Quantize the routed experts of `source` with llama.cpp."""
    options = [part for pattern, kept in KEPT.items() for part in ("--tensor-type", f"{pattern}={kept}")]
    command = [str(binary), "--allow-requantize", "--imatrix", str(imatrix), "--output-tensor-type", "bf16",
               "--token-embedding-type", "bf16", "--tensor-type", f"ffn_.*_exps={name}", *options, str(source),
               str(out), "Q8_0", "1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise ValueError(f"llama-quantize failed: {done.stderr.decode(errors='replace').strip()[-300:]}")


def tensor_types(path: Path) -> dict[str, str]:
    return {name: place.type for name, place in read_header(path).tensors.items()}


def rows(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields a row for each file; one of ours and one of llama.cpp's are there at a time."""
    source, text = Source(args.model), Text(args.model, args.windows, args.length)
    importance = importance_of(args.model, args.tokens, folder / "importance")
    places = [(layer, matrix) for layer in range(source.config.num_hidden_layers) for matrix in MATRICES]
    plain, imatrix, ours, theirs = (folder / f"{name}.gguf" for name in ("mxfp4", "imatrix", "ours", "theirs"))
    importance.save_imatrix(imatrix)

    def row(by: str, name: str, path: Path, **more: str) -> dict[str, Any]:
        size = path.stat().st_size
        return {"by": by, "type": name, "bits": TYPES[name].bits, "bytes": size} | text.measure(path) | more

    def write(types: Mapping[Place, str], path: Path) -> None:
        Export(source, types, importance).write_gguf(path)

    write(dict.fromkeys(places, "mxfp4"), plain)
    yield row("all", "mxfp4", plain)
    for name in args.types:
        write(dict.fromkeys(places, name), ours)
        yield row("wavefold", name, ours)
        llama_cpp(args.llama_quantize, imatrix, plain, theirs, name)
        assert tensor_types(theirs) == tensor_types(ours), "the files differ in more than the experts' values"
        yield row("llama.cpp", name, theirs)
    options = measure(source, importance, source.all_experts) if args.budgets else {}
    for name in args.budgets:
        budget = sum(option.num_bytes for choices in options.values() for option in choices if option.type == name)
        types = {place: option.type for place, option in choose(options, budget).items()}
        write(types, ours)
        counts = Counter(types.values())
        yield row("budget", name, ours, chosen=", ".join(f"{kind} x {counts[kind]}" for kind in TYPES if counts[kind]))


def svg(rows: list[dict[str, Any]], title: str) -> str:
    """Returns a small figure: KL, on a scale of powers of ten, against bits of an expert's weight."""
    lines = {by: line for by in COLORS if (line := [row for row in rows if row["by"] == by])}
    shown = [row for line in lines.values() for row in line]
    low, high = (edge(math.log10(row["kl"]) for row in shown) for edge in (min, max))
    low, high = math.floor(low), math.ceil(high)

    def at(row: dict[str, Any]) -> str:
        x = 50 + 400 * (row["bits"] - 1.5) / 5.5
        return f"{x:.0f},{20 + 220 * (high - math.log10(row['kl'])) / (high - low):.0f}"

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 290" font-family="sans-serif" font-size="11">',
        f'<rect width="480" height="290" fill="#fff"/><text x="50" y="13">{title}</text>',
        '<path d="M50,20V240H450" fill="none" stroke="#888"/><text x="190" y="280">bits of an expert\'s weight</text>',
    ]
    for power in range(low, high + 1):
        y = 20 + 220 * (high - power) / (high - low)
        parts.append(f'<path d="M50,{y:.0f}H450" stroke="#ddd"/><text x="8" y="{y + 4:.0f}">{10.0**power:g}</text>')
    parts += [f'<text x="{50 + 400 * (bits - 1.5) / 5.5:.0f}" y="258">{bits}</text>' for bits in range(2, 8)]
    for number, (by, line) in enumerate(lines.items()):
        points = sorted((at(row) for row in line), key=lambda point: int(point.split(",")[0]))
        if by != "budget":
            parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLORS[by]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{COLORS[by]}"/>' for x, y in (p.split(",") for p in points)]
        parts.append(f'<text x="340" y="{40 + 16 * number}" fill="{COLORS[by]}">{LABELS[by]}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-quantize", type=Path, required=True)
    parser.add_argument("--types", nargs="+", default=["iq2_xxs", "q2_k", "q3_k", "q4_k", "q6_k"])
    parser.add_argument("--budgets", nargs="*", default=["q2_k", "q3_k"])
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = []
    table = Table("by", "type", "bits", "bytes", "NLL", "KL", "top-1", "chosen")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(args, Path(folder)):
            found.append(row)
            print(json.dumps(row), flush=True)
            table.add_row(row["by"], row["type"], f"{row['bits']:.2f}", f"{row['bytes']:,}", f"{row['nll']:.4f}",
                          f"{row['kl']:.5f}", f"{row['top1']:.2%}", row.get("chosen", ""))  # fmt: skip
    Console().print(table)
    if args.svg:
        title = f"KL to the model before, nats a token, {args.windows} x {args.length} held-out tokens"
        args.svg.write_text(svg(found, title), encoding="utf-8")
    if args.out:
        append(args.out, [circumstances(1) | {"bench": "bits_curve", "model": args.model.name, "rows": found}])


if __name__ == "__main__":
    main()
