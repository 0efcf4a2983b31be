"""A day of a coding agent: what a prefix cache that outlives the process saves of its prompts.

    python bench/agent_day.py [MODEL] [--requests 200] [--sessions 8] [--scale 1] [--lives 5] [--cold-every 5]
                              [--folder DIR] [--figure FILE.svg] [--out FILE.jsonl]

The shape: sessions take turns at random. All begin with one system text (6,000 tokens) and one list of tools (4,000),
and grow to 60,000 tokens: results of tools, the larger ones first, and answers of 500 to 900 tokens, which the model
gives. In each session one request is asked again (its client lost the answer), and one turn is taken back and another
one asked in its place. All other tokens are random ids: nobody's text. `--scale` multiplies all lengths.

The day is lived by `--lives` processes one after another, which share a folder; every second one ends by SIGKILL. Then
another process without a cache reads every `--cold-every`-th of the same prompts. TTFT is from the question to the
first token. "New" are tokens that no request and no answer had before: nothing computes fewer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wavefold import LLM, Sampling
from wavefold.bench.circumstances import append, circumstances
from wavefold.config import ModelConfig
from wavefold.locate import model_path

SYSTEM, TOOLS, LONGEST = 6_000, 4_000, 60_000
ANSWER = 500, 900
FIRST_RESULTS, LAST_RESULTS = 1.6, 0.4
"""Sizes of the first and last results of tools, over their mean: files are read first, then edited."""
FIRST_ID = 10


@dataclass
class Step:
    """One request: of a session, in one of three ways, with `message` new tokens and an answer of `answer` tokens."""

    session: int
    way: str
    message: int
    answer: int


@dataclass
class Session:
    """Its text up to the last message, that message, and the answer to it."""

    text: list[int]
    message: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)


def steps_of(args: argparse.Namespace) -> list[Step]:
    """The day's requests in order. A session has one that is asked again and one that is taken back, if it has 8."""
    drawn = random.Random(args.seed)
    per_session = args.requests // args.sessions
    num_turns = per_session - (2 if per_session >= 8 else 0)
    sessions: list[list[Step]] = []
    for session in range(args.sessions):
        answers = [round(args.scale * drawn.randint(*ANSWER)) for _ in range(num_turns)]
        room = args.scale * (LONGEST - SYSTEM - TOOLS) - sum(answers[:-1])
        weights = [drawn.uniform(0.5, 1.5) * float(weight)
                   for weight in np.linspace(FIRST_RESULTS, LAST_RESULTS, num_turns)]  # fmt: skip
        messages = [max(1, int(room * weight / sum(weights))) for weight in weights]
        steps = [Step(session, "turn", *sizes) for sizes in zip(messages, answers, strict=True)]
        if per_session >= 8:
            again, taken_back = drawn.randrange(1, num_turns), drawn.randrange(1, num_turns)
            steps.insert(taken_back + 1, Step(session, "another", steps[taken_back].message, steps[taken_back].answer))
            steps.insert(again + 1, Step(session, "again", 0, steps[again].answer))
        sessions.append(steps)
    order = [session for session, steps in enumerate(sessions) for _ in steps]
    drawn.shuffle(order)
    return [sessions[session].pop(0) for session in order]


def prompt_of(session: Session, step: Step, drawn: random.Random, vocabulary: int) -> list[int]:
    """The next prompt of a session, which is changed so that it has been asked."""
    if step.way == "turn":
        session.text += session.message + session.answer
    if step.way != "again":
        session.message = [drawn.randrange(FIRST_ID, vocabulary) for _ in range(step.message)]
    return session.text + session.message


def live(job: dict[str, Any]) -> None:
    """In a process of its own: asks requests `first` to `last`, and prints a line of figures for each."""
    args, folder = argparse.Namespace(**job["args"]), Path(job["folder"])
    state = json.loads((folder / "state.json").read_text())
    sessions = [Session(**values) for values in state["sessions"]]
    steps = steps_of(args)
    with LLM(
        args.model, threads=args.threads, batch_invariant=args.batch_invariant, cache_tokens=args.cache_tokens,
        snapshot_every=args.snapshot_every, cache_dir=folder / "kept", disk_cache=args.disk_cache,
    ) as llm:  # fmt: skip
        config = llm.model.config
        for number in range(job["first"], job["last"]):
            step = steps[number]
            session = sessions[step.session]
            prompt = prompt_of(session, step, random.Random(f"{args.seed} {number}"), config.vocab_size)
            if number % args.cold_every == 0:
                (folder / f"prompt-{number}.json").write_text(json.dumps(prompt))
            figures, session.answer = ask(llm, prompt, step.answer)
            print(json.dumps({"number": number, **asdict(step), **figures}), flush=True)
        (folder / "state.json").write_text(json.dumps({"sessions": [asdict(session) for session in sessions]}))
        if job["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)


def read_cold(job: dict[str, Any]) -> None:
    """In a process of its own: reads the prompts that were kept, without a cache."""
    args, folder = argparse.Namespace(**job["args"]), Path(job["folder"])
    with LLM(args.model, threads=args.threads, batch_invariant=args.batch_invariant, prefix_cache=False) as llm:
        for number in range(0, args.requests, args.cold_every):
            prompt = json.loads((folder / f"prompt-{number}.json").read_text())
            figures, _ = ask(llm, prompt, 1)
            print(json.dumps({"number": number, **figures}), flush=True)


def ask(llm: LLM, prompt: list[int], num_tokens: int) -> tuple[dict[str, Any], list[int]]:
    """Asks for an answer of so many tokens, which no EOS ends. Returns figures, and the answer."""
    first_s, began = 0.0, time.perf_counter()

    def read(done: int, of: int) -> None:
        nonlocal first_s
        if done == of:  # by the pass that has chosen the first token
            first_s = time.perf_counter() - began

    never = {token: -100.0 for token in llm.model.config.eos_token_ids}
    answer = llm.stream(prompt, Sampling(num_tokens, 0, logit_bias=never), read).finish()
    usage = answer.usage
    figures = {"asked": usage.prompt_tokens, "computed": usage.computed_tokens, "memory": usage.cached_tokens,
               "disk": usage.disk_tokens, "first_s": first_s, "first_token": answer.tokens[0]}  # fmt: skip
    return figures, list(answer.tokens)


def run(args: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[int]]:
    """Lives the day, then reads some of it cold. Returns figures of both, and the requests at which a life began."""
    vocabulary = ModelConfig.from_file(model_path(args.model)).vocab_size
    drawn = random.Random(args.seed)
    first = [drawn.randrange(FIRST_ID, vocabulary) for _ in range(round(args.scale * (SYSTEM + TOOLS)))]
    state = {"sessions": [asdict(Session(first)) for _ in range(args.sessions)]}
    (folder / "state.json").write_text(json.dumps(state))
    places = [round(args.requests * life / args.lives) for life in range(args.lives + 1)]
    warm: list[dict[str, Any]] = []
    for life, (begin, end) in enumerate(itertools.pairwise(places)):
        warm += worker("live", {"args": vars(args), "folder": str(folder), "first": begin, "last": end,
                                "kill": life % 2 == 1})  # fmt: skip
    cold = worker("cold", {"args": vars(args), "folder": str(folder)})
    assert [len(warm), len(cold)] == [args.requests, -(-args.requests // args.cold_every)]
    return warm, cold, places[1:-1]


def worker(way: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the lines that another process prints, and shows how far it is."""
    lines = []
    with subprocess.Popen(
        [sys.executable, __file__, f"--{way}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        for line in process.stdout:
            lines.append(json.loads(line))
            print(f"\r{way}: request {lines[-1]['number'] + 1}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if process.returncode != (-signal.SIGKILL if job.get("kill") else 0):
        raise SystemExit(f"a process ended with {process.returncode}")
    return lines


def summary(args: argparse.Namespace, warm: list[dict[str, Any]], cold: list[dict[str, Any]]) -> dict[str, Any]:
    asked, computed = (sum(line[name] for line in warm) for name in ("asked", "computed"))
    new = round(args.scale * (SYSTEM + TOOLS)) + sum(line["message"] for line in warm)
    by_number = {line["number"]: line for line in warm}
    pairs = [(by_number[line["number"]], line) for line in cold]
    same = sum(one["first_token"] == other["first_token"] for one, other in pairs)
    if args.batch_invariant:
        assert same == len(pairs), "a batch-invariant answer begins otherwise with the cache"
    figures: dict[str, Any] = {
        "requests": len(warm), "longest": max(line["asked"] for line in warm), "asked": asked, "new": new,
        "computed": computed, "computed_over_asked": computed / asked, "new_over_asked": new / asked,
        "from_memory": sum(line["memory"] for line in warm), "from_disk": sum(line["disk"] for line in warm),
        "cold_requests": len(cold), "same_first_tokens": same,
    }  # fmt: skip
    for name, lines in (("with", warm), ("without", cold), ("with_same_requests", [one for one, _ in pairs])):
        for percent in (50, 99):
            figures[f"ttft_{name}_p{percent}_s"] = float(np.percentile([line["first_s"] for line in lines], percent))
    return figures


def draw(path: Path, warm: list[dict[str, Any]], cold: list[dict[str, Any]], restarts: list[int], name: str) -> None:
    """Left: how many requests have their first token after so many seconds. Right: tokens asked and computed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    from wavefold.drawing import save_figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, lines, color in (("without", cold, "tab:gray"), ("with the cache", warm, "tab:blue")):
        seconds = np.array([line["first_s"] for line in lines])
        p50, p99 = np.percentile(seconds, 50), np.percentile(seconds, 99)
        left.semilogx(np.sort(seconds), 100 * np.arange(1, len(seconds) + 1) / len(seconds), color=color,
                      label=f"{label}: p50 {p50:.3g} s, p99 {p99:.3g} s")  # fmt: skip
    left.set(xlabel="seconds to the first token", ylabel="% of requests", ylim=(0, 130), yticks=range(0, 101, 25))
    left.xaxis.set_minor_formatter(NullFormatter())
    for label, color in (("asked", "tab:gray"), ("computed", "tab:blue")):
        millions = np.cumsum([line[label] for line in warm]) / 1e6
        right.plot(range(1, len(warm) + 1), millions, color=color, label=f"{label}: {millions[-1]:.2f} million")
    for place in restarts:
        right.axvline(place + 0.5, color="black", linewidth=0.5)
    right.set(xlabel="request (lines: the process restarts)", ylabel="million tokens of prompts")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="upper left")
    figure.suptitle(f"{len(warm)} requests of an agent, {name}", fontsize=9)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a checkpoint folder or GGUF file (default: the shipped model)")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=8, help="--requests is a multiple of it")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--lives", type=int, default=5)
    parser.add_argument("--cold-every", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache-tokens", type=int, help="of the pool in memory (default: the library's)")
    parser.add_argument("--snapshot-every", type=int, default=2048)
    parser.add_argument("--disk-cache", default="20G")
    parser.add_argument("--batch-invariant", action="store_true", help="first tokens must be those of the cold run")
    parser.add_argument("--folder", help="on the disk that keeps prompts (default: of temporary files)")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.requests % args.sessions or args.requests < args.sessions:
        raise SystemExit(f"--requests {args.requests} is not allowed; expected a multiple of --sessions")
    figure, out = args.figure, args.out
    args.figure = args.out = None  # what is left is JSON
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        warm, cold, restarts = run(args, Path(folder))
        kept = [path.stat().st_size for path in (Path(folder) / "kept").rglob("*") if path.is_file()]
    figures = summary(args, warm, cold) | {"disk_bytes": sum(kept)}
    print(json.dumps(figures, indent=1))
    if out:
        head = circumstances(1) | {"bench": "agent_day", **vars(args)}
        append(out, [head | figures, *({"kind": "with", **line} for line in warm),
                     *({"kind": "without", **line} for line in cold)])  # fmt: skip
    if figure:
        draw(figure, warm, cold, restarts, model_path(args.model).name if args.model else "the shipped model")


if __name__ == "__main__":
    if sys.argv[1:] in (["--live"], ["--cold"]):
        {"--live": live, "--cold": read_cold}[sys.argv[1]](json.load(sys.stdin))
    else:
        main()
