"""Routed experts alone: these kernels and each peer's, on the same weights and tokens, in turns, against float64.

In each turn the machine's rates are measured, then every contestant runs every number of tokens once. Contestants are
processes; the ones whose turn it is not stand still.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from wavefold.bench.limits import LimitsMeter
from wavefold.bench.peers import Peer
from wavefold.bench.peers.contestants import Contestants, Missing, PeerRow
from wavefold.bench.peers.inputs import error_of, expected, write_case, write_experts
from wavefold.bench.products import ExpertShape
from wavefold.bench.worker import Worker
from wavefold.system import check_memory

OUR_MODULE = "wavefold.bench.peers.ours"
MOST_CALLS = 8
CALLED_TOKENS = 256
"""Tokens of a run, at most, unless a single call has more."""


def measure(
    shape: ExpertShape, num_layers: int, tokens: Sequence[int], arithmetic: str, python: str, repeats: int,
    peers: Sequence[Peer], report: Callable[[str], None] = lambda step: None,
) -> tuple[list[PeerRow], list[Missing]]:  # fmt: skip
    """Returns rows of all numbers of tokens and contestants, ours first, and the peers that did not run.

    Raises ValueError for numbers that cannot be, and where memory does not hold the weights of every contestant.
    """
    if min(tokens, default=0) < 1:
        raise ValueError(f"tokens {list(tokens)} are not allowed; expected 1 or more")
    total = num_layers * shape.num_experts * shape.bytes_each
    check_memory((len(peers) + 1) * total, f"experts for {len(peers) + 1} contestants", "fewer --layers or --experts")
    threads = torch.get_num_threads()
    settings: dict[str, object] = {
        "num_layers": num_layers, "num_experts": shape.num_experts, "topk": shape.topk, "hidden": shape.hidden,
        "inter": shape.inter, "limit": shape.limit, "threads": threads, "max_tokens": max(tokens),
    }  # fmt: skip
    ours: dict[str, object] = {"released": arithmetic == "released"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report("drawing experts")
        write_experts(folder, shape, num_layers)
        settings["folder"] = temporary
        with Contestants(peers, OUR_MODULE, python, settings, ours, report) as contestants:
            pairs = list(prepare(folder, shape, tokens, contestants, report))
            meter = LimitsMeter(arithmetic)
            for turn in range(repeats):
                limits = meter.measure()
                for worker, row in pairs[:: 1 if turn % 2 else -1]:
                    report(f"{row.name}, {row.tokens} tokens, turn {turn + 1} of {repeats}")
                    if answer := contestants.ask(worker, {"case": case_file(folder, row.tokens), "out": None}):
                        row.seconds.append(statistics.median(answer["seconds"]))
                        row.limits.append(limits)
            return contestants.complete(row for _, row in pairs), contestants.missing


def prepare(
    folder: Path, shape: ExpertShape, tokens: Sequence[int], contestants: Contestants, report: Callable[[str], None]
) -> Iterator[tuple[Worker, PeerRow]]:
    """Yields a row for each number of tokens and contestant, after a run that is not timed and gives the error."""
    out = folder / "out.safetensors"
    for count in tokens:
        report(f"{count} tokens in float64")
        path, num_calls = case_file(folder, count), max(1, min(MOST_CALLS, CALLED_TOKENS // count))
        case = write_case(Path(path), shape, count, num_calls)
        reference = expected(folder, shape, case)
        distinct = statistics.mean(len(ids.unique()) for ids in case["ids"])
        operations = 6 * count * shape.topk * shape.hidden * shape.inter
        for worker in list(contestants.workers):
            report(f"{worker.name}, {count} tokens")
            if contestants.ask(worker, {"case": path, "out": str(out)}) is not None:
                error = error_of(load_file(out)["y"], reference)
                yield worker, PeerRow(worker.name, "experts", count, distinct * shape.bytes_each, operations, error)


def case_file(folder: Path, num_tokens: int) -> str:
    return str(folder / f"case-{num_tokens}.safetensors")
