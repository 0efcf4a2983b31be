"""A model whose routed experts are read as they are needed: its speed beside that of the disk, in one run.

    disk      experts at random, read by the store's own reader into its slots, as many at a time; before and after
    decode    tokens one by one after a short prompt
    prompt    one pass after another over random tokens

The bound of decoding and of a prompt is the time in which the disk gives the bytes that were read. Page cache is no
part of it where the file system has O_DIRECT.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from wavefold.experts.streamed import StreamedExperts
from wavefold.model import Step, Transformer

DISK_SECONDS = 3.0
FIRST_SECONDS = 1.5
"""Of reads that do not count: memory that is used for the first time costs more than the disk's time."""


@dataclass
class Row:
    """One measurement. `bytes_read` in `seconds`, for `tokens`; `disk` is the bytes a second of this turn's disk."""

    name: str
    tokens: int
    seconds: float
    bytes_read: int
    asked: int
    waited_for: int
    ahead_used: int
    ahead_unused: int
    disk: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    @property
    def hit_rate(self) -> float:
        """Share of experts that were asked for and that no pass waited for a whole read of."""
        return 1 - self.waited_for / max(1, self.asked)

    @property
    def share(self) -> float:
        """The time that the disk alone would take for the bytes, as a share of the time taken."""
        return self.bytes_read / self.disk / self.seconds


def measure(
    model: Transformer, num_tokens: int, prompt_tokens: int, step_tokens: int, seed: int,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[Row]:  # fmt: skip
    """Returns a row for a prompt of random ids and one for decoding after it.

    Raises ValueError for a model whose experts are all in memory.
    """
    store = model.experts.store
    if not isinstance(store, StreamedExperts):
        raise ValueError("all routed experts fit in this memory; expected a smaller one (--memory)")
    on_progress("disk")
    store.read_rate(FIRST_SECONDS, seed)
    disk = store.read_rate(DISK_SECONDS, seed + 1)
    pool = model.new_pool(prompt_tokens + num_tokens + 256)
    sequence = pool.open()
    ids = torch.randint(0, model.config.vocab_size, (prompt_tokens,), generator=torch.Generator().manual_seed(seed))
    logits = torch.empty(0)

    def prompt() -> None:
        nonlocal logits
        for part in ids.split(step_tokens):
            on_progress(f"prompt, {sequence.num_tokens:,} of {prompt_tokens:,} tokens")
            logits = model.forward_step(Step(part, [sequence], [len(part)], [len(part) - 1]))

    def decode() -> None:
        nonlocal logits
        for number in range(num_tokens):
            on_progress(f"decoding, {number} of {num_tokens} tokens")
            logits = model.forward_step(Step(logits.argmax(-1), [sequence], [1], [0]))

    timed = {"prompt": (prompt_tokens, *_timed(store, prompt)), "decode": (num_tokens, *_timed(store, decode))}
    sequence.close()
    on_progress("disk")
    disk = (disk + store.read_rate(DISK_SECONDS, seed + 2)) / 2
    return [Row(name, *figures, disk) for name, figures in timed.items()]


def _timed(store: StreamedExperts, run: Callable[[], None]) -> tuple[float, int, int, int, int, int]:
    """Returns seconds, then what the store counted meanwhile, as in `StreamCounts.totals`."""
    before, began = store.counts.totals(), time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    return seconds, *(late - early for late, early in zip(store.counts.totals(), before, strict=True))  # type: ignore[return-value]
