"""Reads a text up to a token and watches that token's row: the model's own passes, in a pool that is gone afterwards.

    tokens before    from the prefix cache as far as it has them (copied), the rest in passes of the usual kind
    the token        a pass of its own, layer by layer, with a RowWatcher: the same bits as a step that decodes
    MTP              the module over the last window of tokens, or over `CATCH_UP` and more, behind what is cached

Requests go on meanwhile: each pass takes a turn between two steps (`Runner.beside`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wavefold import ops
from wavefold.cache import REWIND, Chain, Pool, PrefixCache, adapter_root
from wavefold.cache import Sequence as Cached
from wavefold.engine.mtp import CATCH_UP
from wavefold.engine.room import check_answer
from wavefold.engine.runner import CHUNK_TOKENS, Runner
from wavefold.inside.record import Guess, Seen
from wavefold.inside.row import RowWatcher
from wavefold.model import Step, Transformer
from wavefold.model.batch import Batch
from wavefold.model.transformer import PASS_TOKENS
from wavefold.ops import Adapter

if TYPE_CHECKING:
    from wavefold.llm import LLM

TOP = 10
"""Next tokens that are told."""

Progress = Callable[[int, int], None]


def look(
    llm: LLM, ids: Sequence[int], position: int, on_read: Progress | None = None, adapter: str | None = None
) -> Seen:  # fmt: skip
    """Returns what the model saw at token `position` of `ids`, one or more. `on_read(done, of)` counts tokens read.

    `adapter`: the name of a loaded adapter, through which the text is read; None: the model alone. Any thread may call
    it, beside requests: their tokens stay the same. Raises ValueError as `look_at`, for a closed LLM, for an adapter
    that is not loaded, and over ranks.
    """
    return look_at(llm.model, ids, position, on_read, llm.runner, llm.requests.adapters.get(adapter))


def look_at(
    model: Transformer, ids: Sequence[int], position: int, on_read: Progress | None = None,
    runner: Runner | None = None, adapter: Adapter | None = None,
) -> Seen:  # fmt: skip
    """`look` at a model. `runner`: who else computes with it; None: nobody may while this runs.

    Raises ValueError for ids and a position that cannot be run, where a cache for them has no room in memory, and for
    logits that are NaN.
    """
    model.check_tokens(torch.tensor(ids, dtype=torch.int64))
    limit = model.config.max_position_embeddings
    if not 0 <= position < len(ids) <= limit:
        raise ValueError(
            f"position = {position} in a text of {len(ids):,} tokens is not allowed; expected a position from 0 to "
            f"{len(ids) - 1}, and at most max_position_embeddings = {limit:,} tokens"
        )
    return _Look(model, runner, list(ids), position, on_read or (lambda done, of: None), adapter).run()


class _Look:
    """One look at one row."""

    def __init__(
        self, model: Transformer, runner: Runner | None, ids: list[int], position: int, on_read: Progress,
        adapter: Adapter | None,
    ):  # fmt: skip
        self._model, self._runner, self._ids, self._position, self._on_read = model, runner, ids, position, on_read
        self._adapter = adapter
        specs = model.config.layers[model.config.num_hidden_layers :]
        self._guesses = bool(model.mtp) and not any(spec.compressed for spec in specs)
        self._window = model.config.sliding_window if self._guesses else 1
        """Tokens up to the one that is looked at whose streams are wanted."""
        self._streams: list[Tensor] = []

    def _turn(self) -> AbstractContextManager[PrefixCache | None]:
        """A turn to compute. Gives what is cached of texts, if anything is."""
        return nullcontext() if self._runner is None else self._runner.beside()

    @torch.no_grad()
    def run(self) -> Seen:
        with self._turn() as cache:
            sequence = self._opened(cache)
            hit, sequence.adapter = sequence.num_tokens, self._adapter
        self._on_read(sequence.num_tokens, self._position + 1)
        while sequence.num_tokens < self._position:
            with self._turn():
                self._read(sequence)
            self._on_read(sequence.num_tokens, self._position + 1)
        with self._turn(), (self._model.runtime or ops.current()).active():
            watcher, logits = self._watched(sequence)
        if bool(logits.isnan().any()):
            raise ValueError(f"the logits at position {self._position} are NaN: the model has no next token to tell")
        probabilities = logits.double().softmax(-1).cpu()
        best = probabilities.topk(min(TOP, len(probabilities)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        following = self._known(1)
        with self._turn():
            guess = self._guess(sequence, top[0][0] if following is None else following)
        self._on_read(self._position + 1, self._position + 1)
        return Seen(
            self._position, tuple(watcher.layers), top, None if following is None else float(probabilities[following]),
            guess, len(sequence.table), hit,
        )  # fmt: skip

    def _known(self, behind: int) -> int | None:
        """The token of the text so many places behind the one that is looked at."""
        place = self._position + behind
        return self._ids[place] if place < len(self._ids) else None

    def _opened(self, cache: PrefixCache | None) -> Cached:
        """Returns a sequence in a pool of its own, with what is cached of the text as this adapter reads it."""
        num_tokens = self._position + 1 + REWIND
        check_answer(self._model, PASS_TOKENS, num_tokens)
        layout = None if cache is None else cache.pool.layout
        draft_tokens = 1 if layout is None else layout.draft_tokens
        pool: Pool = self._model.new_pool(num_tokens, draft_tokens=draft_tokens, mtp=self._guesses)
        most = self._position + 1 - (min(CATCH_UP, self._window) if self._guesses else 1)
        if cache is not None and most > 0:
            root = cache.root if self._adapter is None else adapter_root(cache.root, self._adapter.digest)
            if (sequence := cache.copy(Chain(root, self._ids[: self._position]), most, pool)) is not None:
                return sequence
        return pool.open()

    def _read(self, sequence: Cached) -> None:
        """Reads some more of the tokens before: as many as a step would."""
        first = sequence.num_tokens
        most = PASS_TOKENS if self._runner is None or self._runner.idle else CHUNK_TOKENS
        end = min(self._position, first + most)
        wanted = range(max(first, self._position + 1 - self._window), end)
        streams = self._model.new_streams(len(wanted))
        tokens = torch.tensor(self._ids[first:end], dtype=torch.int64)
        step = Step(tokens, [sequence], [end - first], streams_of=[token - first for token in wanted])
        self._model.forward_step(step, streams if wanted else None)
        self._streams += [streams] if wanted else []

    def _watched(self, sequence: Cached) -> tuple[RowWatcher, Tensor]:
        """Runs the token's pass. Returns what was seen, and the logits [vocab] float32."""
        model, pool = self._model, sequence.pool
        [view] = pool.begin([sequence], [1])
        try:
            watcher = RowWatcher(model, view)
            tokens = torch.tensor([self._ids[self._position]], device=model.device)
            batch = Batch.of(model.config, tokens, [view], watcher=watcher)
            watcher.batch = batch
            hidden, streams = model.final_and_streams(batch)
            model.experts.end_pass()
        except BaseException:
            pool.abort([view])
            raise
        pool.commit([view])
        self._streams.append(streams)
        return watcher, model.logits(hidden)[0]

    def _guess(self, sequence: Cached, following: int) -> Guess | None:
        """Returns the module's guess of the token after `following`."""
        if not self._guesses:
            return None
        streams = torch.cat(self._streams)
        first = self._position + 1 - len(streams)
        sequence.skip_mtp(first)
        ids = torch.tensor([*self._ids[first + 1 : self._position + 1], following], dtype=torch.int64)
        logits = self._model.extend_mtp(streams, ids, [sequence], [len(streams)], [len(streams) - 1])[0]
        probabilities = logits.double().softmax(-1)
        token = int(probabilities.argmax())
        known = self._known(2)
        return Guess(token, float(probabilities[token]), None if known is None else known == token)
