"""Drafts: new tokens a second of one answer at a time with look-up, MTP or both, beside the same engine without.

    python bench/speculation.py [MODEL] [--texts code edits replay random] [--depth 7] [--new 128] [--prompts 8]
                                [--turns 5] [--threads 2] [--seed 0] [--data stdlib] [--out FILE]

    code     held-out files of the corpus, gone on with greedily after 256 tokens
    edits    a function of those files, and its first lines again with one of its names changed; greedy
    replay   the same edits as they should be: each right token gets the largest logit after the pass that computes it.
             The model that ships seldom edits by itself
    random   256 random ids, gone on with at temperature 1.5: nothing can be guessed

In a turn every mode answers the same prompts, one after another; modes take turns, so that other load on the machine
meets all. Time is that of the steps after a prompt's, drafting included. Prints what steps cost by their rows, how
many drafts of each depth are right, and for each text tokens a second with the median of the turns' ratios. Appends
JSON lines to --out.
"""

from __future__ import annotations

import argparse
import ast
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from wavefold.bench.circumstances import append, circumstances, described
from wavefold.chat import Prompt, Tokenizer
from wavefold.checkpoint import load
from wavefold.data.corpus import Document, load_corpus
from wavefold.data.python_source import python_of
from wavefold.engine import Answer, Runner, Sampling
from wavefold.engine.batch import run_all
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.drafting import Drafter, Drafts, proposers_of
from wavefold.engine.request import Request
from wavefold.locate import model_folder
from wavefold.model import Step, Transformer
from wavefold.ops import Runtime
from wavefold.quality.worth.drafts import draft_counts

MODES: tuple[Drafts | None, ...] = (None, "lookup", "mtp", "both")
PAST_TOKENS = 256
TEXTS = "code", "edits", "replay", "random"
ROWS = 1, 2, 3, 4, 5, 8
GREEDY, HOT = Sampling(temperature=0), Sampling(temperature=1.5)


# -- texts -------------------------------------------------------------------------------------------------------------


def code(documents: Sequence[Document], tokenizer: Tokenizer, draw: random.Random, count: int) -> list[list[int]]:
    texts = [tokenizer.encode(document.text, bos=True) for document in documents]
    return draw.sample([ids[:PAST_TOKENS] for ids in texts if len(ids) > 2 * PAST_TOKENS], count)


def edits(documents: Sequence[Document], tokenizer: Tokenizer, draw: random.Random, count: int) -> list[list[int]]:
    """A function, and the first two lines of it where a name is another one."""
    return [tokenizer.encode(before, bos=True) for before, _ in _edits(documents, draw, count)]


def _edits(documents: Sequence[Document], draw: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """(what comes before, the rest of the function with the other name)."""
    for lines, name in draw.sample([case for document in documents for case in _functions(document)], count):
        changed = [line.replace(name, f"{name}_two") for line in lines]
        text = "\n".join([f"# The same function, with {name} renamed to {name}_two", *lines, "", *changed[:2]])
        yield text + "\n", "\n".join([*changed[2:], ""])


class Replay:
    """In place of `model.forward_step`, for one answer at a time: the largest logits are those of given texts."""

    def __init__(self, model: Transformer, texts: Sequence[Sequence[int]]):
        self._forward, self._texts = model.forward_step, [list(text) for text in texts]
        self._text: list[int] = []

    def __call__(self, step: Step, streams: Tensor | None = None) -> Tensor:
        first, ids = step.sequences[0].num_tokens, step.tokens.tolist()
        if not first:
            self._text = next(text for text in self._texts if text[: len(ids)] == ids)
        logits = self._forward(step, streams)
        for number, row in enumerate(step.wanted):
            if (position := first + row + 1) < len(self._text):
                logits[number, self._text[position]] = 1e4
        return logits


def replays(
    model: Transformer, documents: Sequence[Document], tokenizer: Tokenizer, draw: random.Random, count: int
) -> tuple[list[list[int]], Replay]:  # fmt: skip
    """Returns prompts, and what answers them rightly."""
    prompts, texts = [], []
    for before, rest in _edits(documents, draw, count):
        prompts.append(tokenizer.encode(before, bos=True))
        texts.append([*prompts[-1], *tokenizer.encode(rest), model.config.eos_token_ids[0]])
    return prompts, Replay(model, texts)


def _functions(document: Document) -> Iterator[tuple[list[str], str]]:
    """(lines, a name in them) of the functions of 8 to 30 lines."""
    if (python := python_of(document)) is None:
        return
    text, tree = python
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or not node.args.args:
            continue
        lines, name = text.split("\n")[node.lineno - 1 : node.end_lineno], node.args.args[-1].arg
        if 8 <= len(lines) <= 30 and len(name) > 3 and sum(name in line for line in lines[2:]) > 0:
            yield lines, name


def noise(vocab: int, draw: random.Random, count: int) -> list[list[int]]:
    return [[0, *(draw.randrange(vocab) for _ in range(PAST_TOKENS - 1))] for _ in range(count)]


# -- answers -----------------------------------------------------------------------------------------------------------


def answer_all(runner: Runner, prompts: Sequence[Sequence[int]], sampling: Sampling, new: int) -> tuple[int, float]:
    """Returns the tokens after each answer's first, and the seconds that they took."""
    resolved, tokens, seconds = sampling.resolved(GenerationDefaults(), runner.model.config), 0, 0.0
    for number, ids in enumerate(prompts):
        request = Request(number, ids, new, sampling=Answer(Prompt(list(ids)), resolved))
        (completion,) = run_all(runner, [request])
        tokens, seconds = tokens + completion.usage.decode_tokens, seconds + completion.usage.decode_s
    return tokens, seconds


def acceptance(
    model: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling, new: int, depth: int
) -> dict[int, float]:  # fmt: skip
    """The share of MTP drafts that are right, by depth, of those whose drafts before are right."""
    by_depth = zip(*draft_counts(model, prompts, sampling, new, depth, width=1), strict=True)
    sums = {level: tuple(map(sum, zip(*pairs, strict=True))) for level, pairs in enumerate(by_depth, 1)}
    return {level: right / tried for level, (right, tried) in sums.items() if tried}


# -- costs -------------------------------------------------------------------------------------------------------------


def costs(model: Transformer, turns: int) -> dict[str, float]:
    """Median seconds of a step of several rows of one sequence, and of MTP passes; each mode in every turn."""
    pool = model.new_pool(1024, draft_tokens=max(ROWS), mtp=True)
    sequence = pool.open()
    streams = model.new_streams(PAST_TOKENS)
    ids = torch.randint(model.config.vocab_size, (PAST_TOKENS + 1,), generator=torch.Generator().manual_seed(0))
    step = Step(ids[:-1], [sequence], [PAST_TOKENS], (), range(PAST_TOKENS))
    model.forward_step(step, streams)

    def steps(count: int) -> None:
        model.forward_step(Step(ids[:count], [sequence], [count], range(count), range(count)), streams[:count])
        sequence.rewind(count)

    def passes(count: int) -> None:
        sequence.skip_mtp(sequence.num_mtp_tokens)
        sequence.num_mtp_tokens = sequence.mtp_first = PAST_TOKENS - count
        model.extend_mtp(streams[:count], ids[:count], [sequence], [count], [count - 1], model.new_streams(1))

    jobs = {f"step of {count} rows": (steps, count) for count in ROWS}
    jobs |= {f"MTP pass of {count} rows": (passes, count) for count in (1, 2, 4, 32, 128)}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(10 * turns + 3):
        for name, (job, count) in jobs.items():
            job(count)
            began = time.perf_counter()
            for _ in range(3):
                job(count)
            if turn >= 3:  # pages are read, caches are warm
                seconds[name].append((time.perf_counter() - began) / 3)
    return {name: statistics.median(values) for name, values in seconds.items()}


# -- the bench ---------------------------------------------------------------------------------------------------------


def measured(
    model: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling, args: argparse.Namespace
) -> dict[str, dict[str, object]]:  # fmt: skip
    """Tokens a second of each mode, and its ratios to the mode without drafts, turn by turn."""
    runners = {}
    for mode in MODES:
        depth = args.depth if mode else 0
        drafter = Drafter(depth, proposers_of(model, mode)) if mode else None
        runners[mode or "none"] = Runner(model, 64, draft_depth=depth, drafter=drafter)
    speeds: dict[str, list[float]] = {mode: [] for mode in runners}
    for turn in range(args.turns + 1):
        modes = list(runners)
        for mode in modes[turn % len(modes) :] + modes[: turn % len(modes)]:
            tokens, seconds = answer_all(runners[mode], prompts, sampling, args.new)
            if turn:
                speeds[mode].append(tokens / seconds)
    results = {}
    for mode, values in speeds.items():
        ratios = [value / without for value, without in zip(values, speeds["none"], strict=True)]
        results[mode] = {
            "tokens_per_s": statistics.median(values), "ratio": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }  # fmt: skip
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--texts", nargs="+", default=TEXTS, choices=TEXTS)
    parser.add_argument("--depth", type=int, default=7)
    parser.add_argument("--new", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--out", type=Path, help="a file to append JSON lines to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = model_folder(args.model)
    tokenizer, model = Tokenizer.load(folder), load(folder)
    model.runtime = Runtime(threads=args.threads)
    head = circumstances(args.turns) | {
        "bench": "speculation", "model": folder.name, "kernels": described(model.runtime), "depth": args.depth,
        "new": args.new, "prompts": args.prompts,
    }  # fmt: skip
    documents, draw = load_corpus(args.data).held_out, random.Random(args.seed)
    by_rows = costs(model, args.turns)
    table = Table("", "ms", title="what a step and an MTP pass cost")
    for name, seconds in by_rows.items():
        table.add_row(name, f"{1e3 * seconds:.3f}")
    Console().print(table)
    lines = [head | {"part": "costs", "seconds": by_rows}]
    table = Table("text", "drafts", "tokens/s", "ratio", "range", "MTP drafts right, by depth")
    for text in args.texts:
        sampling = HOT if text == "random" else GREEDY
        vars(model).pop("forward_step", None)
        if text == "random":
            prompts = noise(model.config.vocab_size, draw, args.prompts)
        elif text == "replay":
            prompts, model.forward_step = replays(model, documents, tokenizer, draw, args.prompts)  # type: ignore
        else:
            prompts = (code if text == "code" else edits)(documents, tokenizer, draw, args.prompts)
        shares = acceptance(model, prompts, sampling, args.new, args.depth)
        for mode, figures in measured(model, prompts, sampling, args).items():
            low, high = figures["range"]  # type: ignore[misc]
            table.add_row(
                text, mode, f"{figures['tokens_per_s']:,.0f}", f"{figures['ratio']:.2f}", f"{low:.2f} to {high:.2f}",
                ", ".join(f"{share:.0%}" for share in shares.values()) if mode == "mtp" else "",
            )  # fmt: skip
            lines.append(head | {"part": "answers", "text": text, "mode": mode, "acceptance": shares} | figures)
    Console().print(table)
    if args.out:
        append(args.out, lines)


if __name__ == "__main__":
    main()
