"""A program over ranks, as torchrun starts it: streamed experts beside those of mapped files, over the same ranks.

    torchrun --nproc-per-node 2 -m tests.experts.over_ranks FOLDER OUT

Each rank writes what it found to OUT/RANK.json: comparisons and whether all bits were equal, errors, counts of hints.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import torch

from wavefold import LLM, Sampling, ops
from wavefold.engine import budget
from wavefold.engine.open import OverRanks, open_model
from wavefold.experts.streamed import StreamedExperts
from wavefold.model import Transformer
from wavefold.system import Notice
from wavefold.waves import agreement
from wavefold.waves.faults import PassFailed

LENGTHS = ([1], [150], [3, 40, 1])
SLOTS = {"auto": [(2, 2), (3, 3), (8, 8), (3, 8), (5, None)], "reference": [(3, 8)]}
"""By backend, of rank 0 and of rank 1; None: mapped."""
WAVES = OverRanks(3)


def logits_of(model: Transformer) -> torch.Tensor:
    """Of one sequence and of several at once: prompts in one pass, then tokens one by one."""
    rows = []
    for lengths in LENGTHS:
        tokens = torch.randint(0, 300, (sum(lengths),), generator=torch.Generator().manual_seed(len(lengths)))
        pool = model.new_pool(1024)
        sequences = [pool.open() for _ in lengths]
        rows.append(model.extend(tokens, sequences, lengths))
        for step in range(6):
            rows.append(model.extend(torch.arange(len(lengths)) + step, sequences, [1] * len(lengths)))
    return model.logits(torch.cat(rows))


def compare_logits(folder: Path, rank: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for backend in SLOTS:
        with ops.using(backend=backend):
            expected = logits_of(open_model(folder, over_ranks=WAVES))
            for slots in SLOTS[backend]:
                model = open_model(folder, over_ranks=WAVES, num_slots=slots[rank])
                assert isinstance(model.experts.store, StreamedExperts) == (slots[rank] is not None)
                found[f"{backend} {slots}"] = torch.equal(logits_of(model), expected)
                if backend == "auto" and slots == (8, 8):
                    counts = model.experts.store.counts  # type: ignore[attr-defined]
                    found["ahead"] = counts.ahead_used.tolist()
                    found["asked"] = [int(counts.asked.sum()), int(counts.hits.sum() + counts.read.sum())]
    return found


def failing(here: bool, begin: int, end: int) -> None:
    """From now on reads `begin` to `end` fail, if `here`."""
    number, preadv = iter(range(10**9)), os.preadv

    def read(*arguments: object) -> int:
        if begin <= next(number) < end:
            raise OSError(5, "Input/output error")
        return preadv(*arguments)  # type: ignore[arg-type]

    if here:
        os.preadv = read  # type: ignore[assignment]


def errors_of_passes(folder: Path, rank: int) -> dict[str, object]:
    """Passes that fail on a rank fail on both; then the next ones have the bits of mapped files."""
    expected = logits_of(open_model(folder, over_ranks=WAVES))
    model, errors, preadv = open_model(folder, over_ranks=WAVES, num_slots=3), [], os.preadv
    for on, begin in ((1, 0), (0, 0), (1, 5), (0, 9)):
        failing(rank == on, begin, 10**9)
        try:
            logits_of(model)
        except PassFailed as error:
            errors.append(str(error))
        os.preadv = preadv
    return {"pass errors": errors, "after errors": torch.equal(logits_of(model), expected)}


def answers(llm: LLM) -> list[list[int]]:
    prompts: list[str | list[int]] = ["def f(", [7] * 200, "x", [9, 8, 7], "one"]
    samplings = [Sampling(12, 0), Sampling(12, 1.0, seed=3), Sampling(12, 0.7, 0.9, seed=4), Sampling(20, 0)]
    together = [list(answer.tokens) for answer in llm.generate(prompts[:4], samplings)]
    return [*together, list(llm.stream(prompts[4], Sampling(9, 0)).finish().tokens)]


def compare_answers(folder: Path, rank: int) -> dict[str, object]:
    """Under budgets that differ by rank: tokens of mapped files, and reads that fail on rank 1 amid answers."""
    found: dict[str, object] = {"answer errors": []}
    least = least_budget(folder)
    for name, memory in (("mapped", None), ("streamed", least + 300_000 * (1 - rank))):
        llm = LLM(folder, batch_invariant=True, over_ranks=WAVES, memory=memory, draft_depth=2)
        if llm.budget is not None:
            found["numbers"] = [llm.budget.pool_tokens, llm.budget.step_tokens, llm.budget.max_running]
            found["num_slots"] = llm.budget.num_slots
            failing(rank == 1, 60, 70)
        if rank:
            with warnings.catch_warnings(record=True, action="always", category=Notice) as notices:
                llm.follow()
            found["notices"] = [str(notice.message) for notice in notices]
            continue
        with llm:
            while name not in found:
                try:
                    found[name] = answers(llm)
                except PassFailed as error:
                    found["answer errors"].append(str(error))  # type: ignore[attr-defined]
    return found


def least_budget(folder: Path) -> int:
    """Of either rank, whose libraries are taken for 1 MB: what is left for this small model is then what counts."""
    budget.rss_bytes, budget.OVERHEAD = lambda: 1 << 20, 0  # type: ignore[assignment]
    low, high = 2_000_000, 1 << 30
    while high - low > 1:
        middle = (low + high) // 2
        try:
            budget.budget_of(folder, ops.Arithmetic("released"), middle, share=range(8))
            high = middle
        except ValueError:
            low = middle
    return high


def main() -> None:
    folder, out, rank = Path(sys.argv[1]), Path(sys.argv[2]), agreement.rank_here()
    torch.set_num_threads(1)
    with agreement.joined():
        found = compare_logits(folder, rank) | errors_of_passes(folder, rank)
        with ops.using(backend="auto"):
            found |= compare_answers(folder, rank)
    (out / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
