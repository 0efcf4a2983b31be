"""One sequence from a prompt to its end, with the figures that matter: time, speed, cache.

prompt -> extend, PASS_TOKENS at a time -> logits of the last token -> sample -> extend by it -> ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from wavefold.engine.room import check_answer
from wavefold.engine.sampler import check_sampling, sample
from wavefold.model import Step, Transformer
from wavefold.model.transformer import PASS_TOKENS

StopReason = Literal["stop", "length", "context"]
"""Why an answer ended: a stop id was chosen, `max_tokens` were, or the context window was full before they were."""


@dataclass(frozen=True)
class Stats:
    """What a generation took so far.

    `prefill_s` ends when the first token is known; `decode_s` is the model's time for the `decode_tokens` after it,
    without what the caller did between them. `cache_bytes` is what the sequence held last.
    """

    prompt_tokens: int
    prefill_s: float = 0.0
    decode_tokens: int = 0
    decode_s: float = 0.0
    cache_bytes: int = 0

    @property
    def prefill_tokens_per_s(self) -> float:
        return self.prompt_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        return self.decode_tokens / self.decode_s if self.decode_s else 0.0


class Generation(Iterator[int]):
    """Token ids, each computed when it is asked for. `stats` grows with them; `close` gives the cache back early.

    `stop_reason` is None until the answer has ended by itself; `stop_id` is the id that ended it, if one did.
    """

    def __init__(self, prompt_tokens: int, run: Callable[[Generation], Iterator[int]]):
        self.stats = Stats(prompt_tokens)
        self.stop_reason: StopReason | None = None
        self.stop_id: int | None = None
        self._tokens = run(self)

    def __next__(self) -> int:
        return next(self._tokens)

    def close(self) -> None:
        self._tokens.close()  # type: ignore[attr-defined]


def generate(
    model: Transformer,
    tokens: Sequence[int],
    max_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_ids: Collection[int] | None = None,
    first_ids: Collection[int] | None = None,
    on_prefill: Callable[[int, int], None] = lambda done, of: None,
    fit_window: bool = False,
) -> Generation:
    """The continuation of `tokens`: at most `max_tokens` ids, ending before one of `stop_ids` (None: EOS).

    The first id is one of `first_ids` (None: any). The cache is of the size that the longest answer needs, and is given
    back at the end, on an error, and on `close`. `on_prefill(done, of)` reports how many of the prompt's tokens are in
    it. With `fit_window`, a `max_tokens` beyond the window (max_position_embeddings) is cut to what is left of it. The
    same arguments give the same ids. Raises ValueError for parameters out of range, for a prompt that is empty, too
    long or not in the vocabulary, and for an answer that memory has no room for.
    """
    check_sampling(temperature, top_p)
    if max_tokens < 1:
        raise ValueError(f"max_tokens = {max_tokens} is not allowed; expected 1 or more")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed = {seed} is not allowed; expected 0 to 2^63 - 1")
    if not tokens:
        raise ValueError("the prompt has no tokens; expected at least one")
    window = model.config.max_position_embeddings
    limit: StopReason = "length"
    if fit_window and max_tokens > (left := max(window - len(tokens) + 1, 1)):
        max_tokens, limit = left, "context"
    num_tokens = len(tokens) + max_tokens - 1  # the last one is not run
    if num_tokens > window:
        raise ValueError(
            f"{len(tokens)} prompt tokens and max_tokens = {max_tokens} are not allowed; expected at most "
            f"max_position_embeddings = {window} together"
        )
    prompt = model.check_tokens(torch.tensor(tokens, dtype=torch.int64))
    check_answer(model, len(tokens), num_tokens)
    stops = set(model.config.eos_token_ids) if stop_ids is None else set(stop_ids)
    generator = torch.Generator().manual_seed(seed)

    def run(generation: Generation) -> Iterator[int]:
        started = time.perf_counter()
        sequence = model.new_pool(num_tokens).open()
        try:
            for first in range(0, len(prompt), PASS_TOKENS):
                on_prefill(first, len(prompt))
                part = prompt[first : first + PASS_TOKENS]
                wanted = [len(part) - 1] if first + len(part) == len(prompt) else []
                logits = model.forward_step(Step(part, [sequence], [len(part)], wanted))
            on_prefill(len(prompt), len(prompt))
            for number in range(max_tokens):
                if number == 0 and first_ids is not None:
                    allowed = torch.full_like(logits, -torch.inf)
                    allowed[:, [token for token in first_ids if token < logits.shape[-1]]] = 0
                    logits = logits + allowed
                token = int(sample(logits, temperature, top_p, generator))
                generation.stats = _add(generation.stats, number, time.perf_counter() - started, sequence.cache_bytes)
                if token in stops:
                    generation.stop_reason, generation.stop_id = "stop", token
                    return
                if number + 1 == max_tokens:
                    generation.stop_reason = limit
                yield token
                if number + 1 < max_tokens:
                    started = time.perf_counter()
                    logits = model.forward_step(Step(torch.tensor([token]), [sequence], [1], [0]))
        finally:
            sequence.close()

    return Generation(len(tokens), run)


def _add(stats: Stats, number: int, seconds: float, cache_bytes: int) -> Stats:
    """`stats` after token `number` (from 0), which took `seconds`."""
    if number == 0:
        return replace(stats, prefill_s=seconds, cache_bytes=cache_bytes)
    return replace(stats, decode_tokens=number, decode_s=stats.decode_s + seconds, cache_bytes=cache_bytes)
