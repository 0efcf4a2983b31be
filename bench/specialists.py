"""How many held-out questions a model answers rightly, alone and with the adapter of each specialist.

    python bench/specialists.py [MODEL] --adapter cron=runs/cron/adapter [--adapter dates=...] [--samples FILE.md]

An adapter is a folder in PEFT's layout, or a merged model (runs/cron/model). Answers are greedy; the specialist's judge
(`wavefold/data/specialists/`) says which are right. Half of the cases have a template that is never trained, half a
value. Answers are kept in --work as they are made, and a run that was killed goes on there. Prints a table and a JSON
line. Needs `pip install 'wavefold[specialists]'`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from wavefold import LLM, Sampling
from wavefold.atomic import holding, write_json
from wavefold.bench.circumstances import append, circumstances
from wavefold.checkpoint.fingerprint import fingerprint, identity
from wavefold.data.specialists import HELD_OUT_CASES, SPECIALISTS, Case, specialist
from wavefold.data.specialists.case import HELD_OUT
from wavefold.locate import model_path
from wavefold.quality.statistics import Figure, share_of

TOGETHER = 50
"""Cases that are answered together: what a killed run computes again, at most."""
MAX_TOKENS = 64
SAMPLES = 20
Answers = dict[str, list[str]]
"""Answers to the cases of a specialist, by "base" and "adapter"."""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="the base (none: what ships)")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIR", help="of a specialist")
    parser.add_argument("--names", default=",".join(SPECIALISTS), metavar="NAME,...", help="some of the three")
    parser.add_argument("--cases", type=int, default=HELD_OUT_CASES, help="held-out cases of each")
    parser.add_argument("--seed", type=int, default=0, help="of the cases; a run evaluates those of 0")
    parser.add_argument("--work", type=Path, default=Path("specialists.work"), help="a folder that keeps answers")
    parser.add_argument("--out", type=Path, help="a file to append the JSON line to")
    parser.add_argument("--samples", type=Path, help=f"a Markdown file for {SAMPLES} samples that nobody selected")
    parser.add_argument("--threads", type=int, help="of the CPU (default: one a core)")
    return parser.parse_args()


class Asked:
    """A model, with an adapter or without. It is opened for the first answer that is not kept."""

    def __init__(self, base: Path, adapter: Path | None):
        merged = adapter is not None and (adapter / "config.json").is_file()
        self.folder = adapter if merged and adapter is not None else base
        self.adapter = None if merged else adapter
        files = [] if self.adapter is None else sorted(self.adapter.glob("adapter_*"))
        if self.adapter is not None and not files:
            raise ValueError(f"{self.adapter}: holds no adapter; expected adapter_model.safetensors or a model")
        self.digest = digest_of([identity(fingerprint(self.folder)),
                                 *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)])  # fmt: skip
        self._llm: LLM | None = None

    def answers(self, cases: list[Case]) -> list[str]:
        named = {} if self.adapter is None else {"adapter": "specialist"}
        if self._llm is None:
            loaded = {} if self.adapter is None else {"adapters": {"specialist": self.adapter}}
            self._llm = LLM(self.folder, batch_invariant=True, **loaded)
        sampling = Sampling(temperature=0, max_tokens=MAX_TOKENS)
        streams = [self._llm.stream_chat(case.chat[:1], sampling, **named) for case in cases]
        return [stream.finish().text or "" for stream in streams]

    def close(self) -> None:
        if self._llm is not None:
            self._llm.close()


def kept_answers(asked: Asked, name: str, cases: list[Case], work: Path) -> list[str]:
    """Returns the answers to all cases, those that are not kept from the model."""
    folder = work / asked.digest
    folder.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    with holding(folder / ".lock"):
        for first in range(0, len(cases), TOGETHER):
            part = cases[first : first + TOGETHER]
            place = folder / f"{name}-{first:05}-{digest_of([MAX_TOKENS, *(case.question for case in part)])}.json"
            if not place.exists():
                write_json(place, asked.answers(part))
            found += json.loads(place.read_text(encoding="utf-8"))
    return found


def figures_of(name: str, cases: list[Case], answers: list[str]) -> dict[str, Figure]:
    """Returns the share of right answers, by what the cases are held out by, and of all."""
    right = [SPECIALISTS[name].judge(case, answer) for case, answer in zip(cases, answers, strict=True)]
    found = {kind: [one for one, case in zip(right, cases, strict=True) if case.held_out == kind] for kind in HELD_OUT}
    shares = {kind: share_of(name, "right", kind, counted) for kind, counted in {**found, "all": right}.items()}
    return {kind: figure for kind, figure in shares.items() if figure is not None}


def samples(cases: dict[str, list[Case]], answers: dict[str, Answers]) -> str:
    """Returns the first cases of each specialist as Markdown; none is left out."""
    lines = ["# Samples", "", "The first held-out cases of each specialist, in the order in which they were drawn.", ""]
    lines += ["| specialist, held out by | question | right | answers |", "| --- | --- | --- | --- |"]
    for place, (name, drawn) in enumerate(cases.items()):
        count = SAMPLES // len(cases) + (place < SAMPLES % len(cases))
        for number, case in enumerate(drawn[:count]):
            said = "; ".join(
                f"{who}: `{_cell(found[number])}` {'✓' if SPECIALISTS[name].judge(case, found[number]) else '✗'}"
                for who, found in answers[name].items()
            )
            lines.append(f"| {name}, {case.held_out} | {_cell(case.question)} | `{case.answer}` | {said} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("`", "'").replace("|", "\\|").split())[:80]


def digest_of(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]


def main() -> None:
    args = parsed()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        cases = {name: specialist(name).cases(args.seed, args.cases, True) for name in args.names.split(",")}
        adapters = {specialist(name).name: Path(folder) for name, _, folder in (a.partition("=") for a in args.adapter)}
        answers: dict[str, Answers] = {name: {} for name in cases}
        base = Asked(model_path(args.model), None)
        for name, drawn in cases.items():
            answers[name]["base"] = kept_answers(base, name, drawn, args.work)
        base.close()
        for name, folder in ((name, adapters[name]) for name in cases if name in adapters):
            asked = Asked(base.folder, folder)
            answers[name]["adapter"] = kept_answers(asked, name, cases[name], args.work)
            asked.close()
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    report(args, cases, answers)


def report(args: argparse.Namespace, cases: dict[str, list[Case]], answers: dict[str, Answers]) -> None:
    """Prints the figures, and writes them and samples where that is asked for."""
    table = Table("specialist", "held out by", "cases", "base", "adapter", title="right answers, ± one standard error")
    values: dict[str, Any] = {}
    for name, drawn in cases.items():
        figures = {who: figures_of(name, drawn, found) for who, found in answers[name].items()}
        values[name] = {who: {kind: [f.value, f.se] for kind, f in found.items()} for who, found in figures.items()}
        for kind, base in figures["base"].items():
            shown = [f"{f.value:.1%} ± {f.se:.1%}" if f else "" for f in (base, figures.get("adapter", {}).get(kind))]
            table.add_row(name, kind, str(len(base.num)), *shown)
    Console().print(table)
    line = circumstances(1) | {"bench": "specialists", "cases": args.cases, "seed": args.seed, "right": values}
    print(json.dumps(line))
    if args.out:
        append(args.out, [line])
    if args.samples:
        args.samples.write_text(samples(cases, answers), encoding="utf-8")


if __name__ == "__main__":
    main()
