"""MTP as a proposer: the checkpoint's own module guesses the token after the next, and goes on from its own guesses.

    streams of token i, token i + 1   -> module -> guess of token i + 2, the module's own streams    rows of real tokens
    these streams, the guess          -> module -> guess of token i + 3                              one row a guess

The module reads the main model's streams after its last block, which a step returns. It attends to a window of its own
rows. A text for which nobody has asked for guesses needs the streams of its last `CATCH_UP` tokens alone: a shorter
window at first, which guesses a little worse (code: 56 % right in place of 61) and costs a third.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wavefold import ops
from wavefold.cache import Sequence as Cached
from wavefold.engine.choosing import Row, next_tokens
from wavefold.engine.proposer import Text
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.engine.speculation import StepCost
from wavefold.model import Transformer

CATCH_UP = 32
"""Tokens that the module reads where it begins in the middle of a text."""


class _Waiting:
    """Streams of the last tokens of a sequence that the module has not run, at least a window of them."""

    def __init__(self, sequence: Cached, window: int):
        self.sequence, self.end, self.num_rows = sequence, 0, 0
        self._window = window
        self._parts: deque[Tensor] = deque()

    def take(self, streams: Tensor) -> None:
        """Takes those of the last tokens of the sequence; tokens between that it has not seen are a new beginning."""
        if self.end + len(streams) != self.sequence.num_tokens:
            self.clear()
        self.end = self.sequence.num_tokens
        self._parts.append(streams)
        self.num_rows += len(streams)
        while self.num_rows - len(self._parts[0]) >= self._window:
            self.num_rows -= len(self._parts.popleft())

    def rows(self, first: int) -> list[Tensor]:
        """The streams of the tokens from `first` on, in parts."""
        begin, parts = self.end - self.num_rows, []
        for part in self._parts:
            if begin + len(part) > first:
                parts.append(part[max(first - begin, 0) :])
            begin += len(part)
        return parts

    def clear(self) -> None:
        self._parts.clear()
        self.num_rows = 0


class MTPDrafts:
    """The proposer. A guess is chosen from the module's logits as the request chooses its tokens.

    Raises ValueError for a model without an MTP module, or with one that attends to more than a window.
    """

    def __init__(self, model: Transformer, clock: Callable[[], float] = time.perf_counter):
        if not model.mtp:
            raise ValueError(
                "MTP drafts of a model without an MTP module (num_nextn_predict_layers = 0, or its tensors are not in "
                'the files) are not allowed; expected drafts = "lookup"'
            )
        if any(spec.compressed for spec in model.config.layers[model.config.num_hidden_layers :]):
            raise ValueError(
                "MTP drafts of a module with a compress_ratio other than 0, which attends to more than a window, are "
                'not allowed; expected drafts = "lookup"'
            )
        self.window, self.kinds = min(CATCH_UP, model.config.sliding_window), 3
        self._model, self._clock = model, clock
        self._waiting: dict[Request, _Waiting] = {}
        self._cost = StepCost()

    def observe(self, text: Text, streams: Tensor | None, accepted: int, of: int) -> None:
        assert streams is not None
        waiting = self._waiting.get(text.request)
        if waiting is None or waiting.sequence is not text.sequence:
            waiting = self._waiting[text.request] = _Waiting(text.sequence, self.window)
        waiting.take(streams)

    def kind(self, text: Text) -> int | None:
        """Guesses of hot answers are right less often than those of greedy ones."""
        waiting = self._waiting.get(text.request)
        if waiting is None or not waiting.num_rows or waiting.end != text.sequence.num_tokens:
            return None
        temperature = answer_of(text.request).sampling.temperature
        return 0 if temperature == 0 else 1 if temperature <= 1 else 2

    def seconds(self, depth: int, num_texts: int) -> float:
        return depth * self._cost.seconds(1, num_texts)

    def behind_s(self, text: Text) -> float:
        return self._cost.per_row * (self._waiting[text.request].num_rows - 1)

    def propose(self, texts: Sequence[Text], depths: Sequence[int]) -> list[Sequence[int]]:
        """Returns the guesses. No text is given twice without a step between."""
        drafts: list[list[int]] = [[] for _ in texts]
        sequences = [text.sequence for text in texts]
        try:
            numbers = list(range(len(texts)))
            began = self._clock()
            logits, streams, num_rows = self._run_waiting(texts)
            while True:
                guesses = self._chosen(logits, [texts[number] for number in numbers], [drafts[n] for n in numbers])
                self._cost.observe(num_rows, self._clock() - began)
                kept = []
                for row, (number, guess) in enumerate(zip(numbers, guesses, strict=True)):
                    if guess is not None:  # else the logits are NaN, or allow no token
                        drafts[number].append(guess)
                        if len(drafts[number]) < depths[number]:
                            kept.append((row, number))
                if not kept:
                    return [*drafts]
                began, numbers = self._clock(), [number for _, number in kept]
                following = [drafts[number][-1] for number in numbers]
                counts, num_rows = [1] * len(numbers), len(numbers)
                logits, streams = self._run(
                    streams[[row for row, _ in kept]], following, [sequences[n] for n in numbers], counts, True
                )
        finally:
            for sequence in sequences:
                sequence.forget_mtp_guesses()

    def forget(self, request: Request) -> None:
        self._waiting.pop(request, None)

    def _run_waiting(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor, int]:
        """Runs the rows of real tokens. Returns logits and streams of the last row of each text, and how many ran."""
        streams: list[Tensor] = []
        following: list[int] = []
        counts: list[int] = []
        for text in texts:
            sequence, waiting = text.sequence, self._waiting[text.request]
            end, num_rows = sequence.num_tokens, min(waiting.num_rows, self.window)
            assert waiting.end == end and num_rows, "no streams wait for a module that is to guess"
            if sequence.num_mtp_tokens < end - num_rows:
                sequence.skip_mtp(end - num_rows)
            first = sequence.num_mtp_tokens
            streams += waiting.rows(first)
            following += text.tokens[first + 1 : end + 1]
            counts.append(end - first)
        results = self._run(torch.cat(streams), following, [text.sequence for text in texts], counts, False)
        for text in texts:
            self._waiting[text.request].clear()
        return *results, len(following)

    def _run(
        self, streams: Tensor, following: Sequence[int], sequences: Sequence[Cached], counts: Sequence[int],
        guessed: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One pass of the module. Returns logits and the module's streams of each sequence's last row."""
        last = [sum(counts[: number + 1]) - 1 for number in range(len(counts))]
        after = self._model.new_streams(len(counts))
        ids = torch.tensor(following, dtype=torch.int64)
        return self._model.extend_mtp(streams, ids, sequences, counts, last, after, guessed), after

    def _chosen(self, logits: Tensor, texts: Sequence[Text], drafts: Sequence[Sequence[int]]) -> list[int | None]:
        """Returns the tokens that the requests would choose from these logits."""
        rows = []
        for text, guesses in zip(texts, drafts, strict=True):
            answer = answer_of(text.request)
            output = [*text.request.output, *guesses]
            rows.append(Row(answer.sampling, answer.prompt_ids, output, None, answer.index))
        with (self._model.runtime or ops.current()).active():
            return next_tokens(logits, rows, range(len(rows)))
