"""This tree against an earlier commit: decoding and prompts of the same checkpoint, in turns within one run.

    python bench/against.py REV MODEL [--decode 64] [--prompt 1024] [--sequences 4 16] [--turns 7] [--threads 2]

`--sequences N`: steps of one token for each of N sequences that have read 256 random tokens.

The earlier commit is checked out and its kernels are built under build/against/REV. Each tree runs in a process of its
own, which loads the model once; then they take turns, so that other load on the machine meets both. Prints a
table of medians and their ratio, and appends a JSON line to --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]


class Tree:
    """A checkout with a process that runs a model: `ask` gives it a command and returns its figures."""

    def __init__(self, name: str, root: Path, args: argparse.Namespace):
        self.name = name
        activations = args.activations if root == ROOT else "bf16"
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(root), str(args.model),
                   str(args.threads), args.arithmetic, activations]  # fmt: skip
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        self.samples: dict[str, list[dict[str, float]]] = {}

    def ask(self, kind: str, count: int) -> None:
        """One turn of "decode" or "prompt" with `count` tokens."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(kind, count, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended; see above")
        self.samples.setdefault(kind, []).append(json.loads(line))

    def median(self, kind: str, key: str = "seconds") -> float:
        return statistics.median(sample[key] for sample in self.samples[kind])


def checkout(revision: str) -> Path:
    """The earlier commit with its kernels beside its sources."""
    place = ROOT / "build" / "against" / revision
    if not place.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(place), revision], cwd=ROOT, check=True)
    native = place / "wavefold" / "ops" / "native"
    if not list(native.glob("libwavefold_kernels.*")):
        build = place / "build" / "kernels"
        configure = ["cmake", "-S", str(place / "csrc"), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"]
        subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--build", str(build), "-j2"], check=True, stdout=subprocess.DEVNULL)
        (library,) = build.glob("libwavefold_kernels.*")
        (native / library.name).write_bytes(library.read_bytes())
    return place


def work(root: str, model_path: str, threads: int, arithmetic: str, activations: str) -> None:
    """A tree's process: reads "decode N" and "prompt N", prints {seconds a token, seconds outside native code}."""
    import time

    import torch

    # an editable install names its own tree before any path
    sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]
    sys.path.insert(0, root)
    import wavefold
    from wavefold.checkpoint import load

    assert wavefold.__file__ == f"{root}/wavefold/__init__.py", (wavefold.__file__, root)

    torch.set_num_threads(threads)
    model = load(Path(model_path), arithmetic, torch.bfloat16)
    if activations != "bf16":
        model.runtime = wavefold.ops.Runtime(threads, activations=activations)
    try:
        from wavefold.model import Step
        from wavefold.ops import timing
    except ImportError:
        from wavefold.ops.native import timing

        def run(tokens, sequences):  # type: ignore[no-untyped-def]
            counts = [len(tokens) // len(sequences)] * len(sequences)
            return model.logits(model.extend(tokens, sequences, counts)[counts[0] - 1 :: counts[0]])
    else:

        def run(tokens, sequences):  # type: ignore[no-untyped-def]
            count = len(tokens) // len(sequences)
            last = [count * number + count - 1 for number in range(len(sequences))]
            return model.forward_step(Step(tokens, sequences, [count] * len(sequences), last))

    vocab, room = model.config.vocab_size, min(model.config.max_position_embeddings, 4096)
    generator = torch.Generator().manual_seed(0)

    def begin(number: int, past: int):  # type: ignore[no-untyped-def]
        """Sequences of a new pool that have read `past` tokens each."""
        pool = model.new_pool(room * number)
        sequences = [pool.open() for _ in range(number)]
        for sequence in sequences if past else ():
            run(torch.randint(vocab, (past,), generator=generator), [sequence])
        return sequences

    sequences = {}  # by kind
    for line in sys.stdin:
        kind, count = line.split()
        number, steps = int(kind) if kind.isdigit() else 1, int(count)
        at = sequences.get(kind)
        if at is None or kind == "prompt" or at[0].num_tokens + steps > room:
            past = 0 if kind == "prompt" else 64 if kind == "decode" else 256
            at = sequences[kind] = begin(number, past)
        tokens = torch.randint(vocab, (number * steps,), generator=generator)
        with torch.no_grad(), timing(*(() if activations == "bf16" else (model.runtime,))) as spent:
            began = time.perf_counter()
            for part in tokens.split(1024 if kind == "prompt" else number):
                run(part, at)
            seconds = time.perf_counter() - began
        figures = {"seconds": seconds / (number * steps), "outside": (seconds - spent.seconds) / (number * steps)}
        print(json.dumps(figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("model", type=Path)
    parser.add_argument("--decode", type=int, default=64, help="tokens of a turn (0: none)")
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of a prompt (0: none)")
    parser.add_argument("--sequences", type=int, nargs="*", default=[], help="decoded together")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--arithmetic", default="released")
    parser.add_argument("--activations", default="bf16", help="of this tree: bf16 or int8")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.model = args.model.resolve()
    trees = [Tree("this tree", ROOT, args), Tree(args.revision, checkout(args.revision), args)]
    kinds = [(kind, count) for kind, count in (("decode", args.decode), ("prompt", args.prompt)) if count]
    kinds += [(str(number), max(2, args.decode // number)) for number in args.sequences]
    for turn in range(args.turns + 1):
        for kind, count in kinds:
            for tree in trees[:: 1 if turn % 2 else -1]:
                tree.ask(kind, count)
        if turn == 0:  # pages are read, caches are warm
            for tree in trees:
                tree.samples.clear()
    table = Table("", *[tree.name for tree in trees], "ratio", "outside native code", title=str(args.model.name))
    results = {}
    for kind, count in kinds:
        ours, earlier = (tree.median(kind) for tree in trees)
        ratios = [
            b["seconds"] / a["seconds"]
            for a, b in zip(trees[0].samples[kind], trees[1].samples[kind], strict=True)
        ]  # fmt: skip
        outside = [tree.median(kind, "outside") / tree.median(kind) for tree in trees]
        table.add_row(
            f"{kind} sequences" if kind.isdigit() else f"{kind} {count}",
            f"{1 / ours:,.1f} tokens/s", f"{1 / earlier:,.1f} tokens/s",
            f"{earlier / ours:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ", ".join(f"{share:.1%}" for share in outside),
        )  # fmt: skip
        results[kind] = {"tokens": count, "ours_s": ours, "theirs_s": earlier, "ratios": ratios, "outside": outside}
    Console().print(table)
    if args.out:
        with args.out.open("a") as file:
            line = {"revision": args.revision, "model": args.model.name, "threads": args.threads, **results}
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:7])
    else:
        main()
