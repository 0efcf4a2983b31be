"""One sequence alone, from a prompt to its end: what the engine's answers are held to (runner.py).

prompt -> steps of PASS_TOKENS -> logits of the last token -> choose -> a step of that token -> ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from wavefold.cache import Sequence as Cached
from wavefold.engine.adjust import NONE, Adjustments, adjusted
from wavefold.engine.request import cached_tokens
from wavefold.engine.room import check_answer
from wavefold.engine.sampler import Filters, check_sampling, choose
from wavefold.engine.uniform import uniform
from wavefold.engine.usage import Usage
from wavefold.model import Step, Transformer
from wavefold.model.transformer import PASS_TOKENS

Finish = Literal["stop", "length", "context"]
"""Why an answer ended: a stop id was chosen, `max_tokens` were, or the context window was full before they were."""


class Generation(Iterator[int]):
    """Token ids, each computed when it is asked for. `usage` grows with them; `close` gives the cache back early.

    `finish_reason` is None until the answer has ended by itself; `stop_id` is the id that ended it, if one did.
    """

    def __init__(self, prompt_tokens: int, run: Callable[[Generation], Iterator[int]]):
        self.usage = Usage(prompt_tokens)
        self.finish_reason: Finish | None = None
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
    top_k: int = 0,
    min_p: float = 0.0,
    adjustments: Adjustments = NONE,
) -> Generation:
    """The continuation of `tokens`: at most `max_tokens` ids, ending before one of `stop_ids` (None: EOS).

    The first id is one of `first_ids` (None: any). The cache is of the size that the longest answer needs, and is given
    back at the end, on an error, and on `close`. `on_prefill(done, of)` reports how many of the prompt's tokens are in
    it. With `fit_window`, a `max_tokens` beyond the window (max_position_embeddings) is cut to the rest of it.
    `top_k`, `min_p`: see `sampler.Filters`.
    The same arguments give the same ids. Raises ValueError for parameters out of range, for a prompt that is empty, too
    long or not in the vocabulary, and for an answer without room in memory.
    """
    check_sampling(temperature, top_p, top_k, min_p)
    _check_arguments(tokens, max_tokens, seed)
    window = model.config.max_position_embeddings
    max_tokens, limit = fitted(len(tokens), max_tokens, window, fit_window)
    prompt = model.check_tokens(torch.tensor(tokens, dtype=torch.int64))
    check_answer(model, min(len(tokens), PASS_TOKENS), cached_tokens(len(tokens), max_tokens))
    request = _Request(
        prompt, max_tokens, limit, Filters.same(1, temperature, top_p, top_k, min_p), seed,
        frozenset(model.config.eos_token_ids if stop_ids is None else stop_ids), first_ids, on_prefill, adjustments,
    )  # fmt: skip
    return Generation(len(tokens), lambda generation: _run(generation, model, request))


@dataclass(frozen=True)
class _Request:
    """The checked arguments of `generate`. `limit` is the finish reason of an answer of `max_tokens` ids."""

    prompt: Tensor
    max_tokens: int
    limit: Finish
    filters: Filters
    seed: int
    stop_ids: Collection[int]
    first_ids: Collection[int] | None
    on_prefill: Callable[[int, int], None]
    adjustments: Adjustments

    def choose(self, logits: Tensor, output: Sequence[int]) -> int:
        """The token after the prompt and `output`, from its logits [1, vocab]."""
        if not output and self.first_ids is not None:
            logits = only(logits, self.first_ids)
        if not self.adjustments.change_nothing:
            logits = adjusted(logits, [self.adjustments], [self.prompt.tolist()], [output])
        position = torch.tensor([len(self.prompt) + len(output)])
        return int(choose(logits, self.filters, uniform(torch.tensor([self.seed]), position)))


def _check_arguments(tokens: Sequence[int], max_tokens: int, seed: int) -> None:
    """Raises ValueError for arguments that no model accepts."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens = {max_tokens} is not allowed; expected 1 or more")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed = {seed} is not allowed; expected 0 to 2^63 - 1")
    if not tokens:
        raise ValueError("the prompt has no tokens; expected at least one")


def fitted(prompt_tokens: int, max_tokens: int, window: int, fit_window: bool) -> tuple[int, Finish]:
    """Returns the longest answer, and its finish reason. Raises ValueError if both do not fit the window."""
    limit: Finish = "length"
    if fit_window and max_tokens > (left := max(window - prompt_tokens + 1, 1)):
        max_tokens, limit = left, "context"
    if cached_tokens(prompt_tokens, max_tokens) > window:
        raise ValueError(
            f"{prompt_tokens} prompt tokens and max_tokens = {max_tokens} are not allowed; expected at most "
            f"max_position_embeddings = {window} together"
        )
    return max_tokens, limit


def _run(generation: Generation, model: Transformer, request: _Request) -> Iterator[int]:
    """The ids of an answer, one pass for each after the prompt's. Updates `generation`."""
    started = time.perf_counter()
    sequence = model.new_pool(cached_tokens(len(request.prompt), request.max_tokens)).open()
    try:
        logits = _prefill(model, request.prompt, sequence, request.on_prefill)
        output: list[int] = []
        for number in range(request.max_tokens):
            token = request.choose(logits, output)
            output.append(token)
            generation.usage = generation.usage.after(number, 1, time.perf_counter() - started, sequence.cache_bytes)
            if token in request.stop_ids:
                generation.finish_reason, generation.stop_id = "stop", token
                return
            if number + 1 == request.max_tokens:
                generation.finish_reason = request.limit
            generation.usage = replace(generation.usage, completion_tokens=number + 1)
            yield token
            if number + 1 < request.max_tokens:
                started = time.perf_counter()
                logits = model.forward_step(Step(torch.tensor([token]), [sequence], [1], [0]))
    finally:
        sequence.close()


def _prefill(model: Transformer, prompt: Tensor, sequence: Cached, on_prefill: Callable[[int, int], None]) -> Tensor:
    """Logits [1, vocab] after the prompt, which is run PASS_TOKENS at a time."""
    for first in range(0, len(prompt), PASS_TOKENS):
        on_prefill(first, len(prompt))
        part = prompt[first : first + PASS_TOKENS]
        wanted = [len(part) - 1] if first + len(part) == len(prompt) else []
        logits = model.forward_step(Step(part, [sequence], [len(part)], wanted))
    on_prefill(len(prompt), len(prompt))
    return logits


def only(logits: Tensor, ids: Collection[int]) -> Tensor:
    """Logits [1, vocab] with all ids but `ids` at -inf. Ids beyond the vocabulary are ignored."""
    allowed = torch.full_like(logits, -torch.inf)
    allowed[:, [token for token in ids if token < logits.shape[-1]]] = 0
    return logits + allowed
