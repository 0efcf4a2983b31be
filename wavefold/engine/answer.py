"""What a request wants beside tokens, and its answer as it comes: text, log probabilities, usage, and where it ends.

token ids -> stop ids -> pieces of text (a character that takes several tokens comes whole) -> stop texts -> pieces
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from wavefold.chat import Prompt, StreamDecoder, Tokenizer
from wavefold.chat.tool_calls import read_calls
from wavefold.engine.completion import Completion
from wavefold.engine.grammar import GrammarState
from wavefold.engine.logprobs import TokenLogprob
from wavefold.engine.request import FinishReason
from wavefold.engine.sampling import ResolvedSampling
from wavefold.engine.stops import StopTexts
from wavefold.engine.usage import Usage


class Answer:
    """One answer to a prompt. The runner calls `take` and `end`, a reader `next_piece` and `completion`.

    `limit` is the finish reason of an answer that has all its tokens. `index`: its number among a prompt's answers.
    `echo_text` begins its text. `scored_from`: the first token of the prompt whose log probability is wanted, from 1.
    `grammar`: what its text may be.
    A model without a tokenizer gives each id, with a blank after it, as a piece.
    """

    def __init__(
        self, prompt: Prompt, sampling: ResolvedSampling, limit: str = "length", tokenizer: Tokenizer | None = None,
        show_special: bool = False, index: int = 0, echo_text: str = "", scored_from: int = 1,
        grammar: GrammarState | None = None,
    ):  # fmt: skip
        self.prompt, self.sampling, self.limit, self.index = prompt, sampling, limit, index
        self.scored_from, self.grammar = scored_from, grammar
        self.prompt_ids = array("q", prompt.ids)
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.usage = Usage(prompt.num_tokens)
        self.finish_reason: str | None = None
        self.error = ""
        self._tokenizer, self._show_special = tokenizer, show_special
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer, len(prompt.taken), show_special)
        self._stops = StopTexts(sampling.stop)
        self._stop_ids = frozenset(sampling.stop_ids)
        self._echo_text = echo_text
        self._pieces = deque([echo_text] if echo_text else [])
        self.num_chosen = 0
        """Tokens that were chosen for it, with the one that ended it."""

    @property
    def next_scored(self) -> int | None:
        """The next token of the prompt whose log probability is wanted and not known, or None."""
        if self.sampling.prompt_logprobs is None:
            return None
        number = self.scored_from + len(self.prompt_logprobs)
        return number if number < len(self.prompt.ids) else None

    # -- the runner's side -------------------------------------------------------------------------------------------

    def take(self, tokens: Sequence[int], logprobs: Iterable[TokenLogprob]) -> tuple[list[int], FinishReason | None]:
        """Takes chosen tokens. Returns those that belong to the answer, and why it ended, if one of them ended it."""
        kept: list[int] = []
        finish: FinishReason | None = None
        for token in tokens:
            self.num_chosen += 1
            if token in self._stop_ids:
                finish = "eos" if token in self.sampling.eos_ids else "stop"
                break
            kept.append(token)
            if self.grammar is not None:
                self.grammar.advance(token)
            self._push(f"{token} " if self._decoder is None else self._stops.push(self._decoder.push(token)))
            if finish := self._failed():
                break
            if self._stops.found or (self.grammar is not None and self.grammar.is_complete):
                finish = "stop"
                break
        self.tokens += kept
        self.usage = replace(self.usage, completion_tokens=len(self.tokens))
        self.logprobs += [entry for _, entry in zip(kept, logprobs, strict=False)]
        return kept, finish

    def take_forced(self, most: int) -> tuple[list[int], FinishReason | None]:
        """Takes tokens, at most `most`, that its grammar leaves no choice of. Returns what `take` does.

        There are none where log probabilities are wanted: no pass has their logits.
        """
        forced: list[int] = []
        if self.grammar is None or self.sampling.logprobs is not None:
            return forced, None
        finish: FinishReason | None = None
        while finish is None and len(forced) < most:
            token = self.grammar.only_token
            finish = self._failed()
            if finish or token is None:
                break
            kept, finish = self.take([token], ())
            forced += kept
        return forced, finish

    def _failed(self) -> FinishReason | None:
        """Returns "error" if its grammar cannot go on, which `error` says then."""
        if self.grammar is None or not self.grammar.error:
            return None
        self.error = self.grammar.error
        return "error"

    def spent(self, before: int, seconds: float, cache_bytes: int) -> None:
        """Counts a pass that ran rows of this answer, which had `before` of `num_chosen` tokens until then."""
        self.usage = self.usage.after(before, self.num_chosen - before, seconds, cache_bytes)

    def end(self, reason: str, error: str = "") -> None:
        """Ends the answer: text that was kept back is given. An answer that has ended stays as it is."""
        if self.finish_reason is None:
            self.error = error or self.error
            if self._decoder is not None and not self._stops.found:
                self._push(self._stops.push(self._decoder.finish()))
                self._push(self._stops.finish())
            # last: another thread may read, and takes an answer with a reason for whole
            self.finish_reason = {"length": self.limit, "abort": "interrupted"}.get(reason, reason)

    def _push(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)

    # -- the reader's side -------------------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """True if a piece waits to be read, or the answer has ended."""
        return bool(self._pieces) or self.finish_reason is not None

    def next_piece(self) -> str | None:
        """Returns the next piece of text that has come and was not returned before, or None."""
        return self._pieces.popleft() if self._pieces else None

    @property
    def scores(self) -> tuple[TokenLogprob | None, ...] | None:
        """Log probabilities of the prompt's tokens so far, None for those before `scored_from`; None: not asked for."""
        if self.sampling.prompt_logprobs is None:
            return None
        return (*[None] * self.scored_from, *self.prompt_logprobs)

    @property
    def completion(self) -> Completion:
        """The answer as far as it has come; its `finish_reason` is "interrupted" until it has ended by itself."""
        text = calls = None
        if self._tokenizer is not None:
            text = self._tokenizer.decode(self.tokens, len(self.prompt.taken), self._show_special)
            if self.sampling.constraint is not None and self.sampling.constraint.kind == "tools":
                calls = read_calls(text)[1]
            text = self._echo_text + (text[: self._stops.num_shown] if self._stops.found else text)
        return Completion(
            text=text,
            tokens=tuple(self.tokens),
            finish_reason=self.finish_reason or "interrupted",
            usage=self.usage,
            logprobs=None if self.sampling.logprobs is None else tuple(self.logprobs),
            prompt_logprobs=self.scores,
            index=self.index,
            error=self.error,
            tool_calls=calls,
        )
