"""An answer: its text as it comes, and its figures once it has ended.

token ids -> pieces of text (a character that takes several tokens comes whole) -> Completion
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wavefold.chat import Prompt, StreamDecoder, Tokenizer
from wavefold.engine.generate import Generation, Stats
from wavefold.engine.sampling import ResolvedSampling
from wavefold.engine.stops import StopTexts


@dataclass(frozen=True)
class Completion:
    """An answer. `text` is None where the model has no tokenizer.

    `stop_reason` is "eos", "stop" (one of `stop_ids` or `stop` of the sampling), "length", "context" (the window is
    full) or "interrupted". `prompt_tokens` counts the prompt as it was written. The token that
    ended the answer is not in `ids`. The tokens of a stop text are in `ids`, and the stop text is not in `text`.
    """

    text: str | None
    ids: tuple[int, ...]
    stop_reason: str
    prompt_tokens: int
    stats: Stats


class TextStream(Iterator[str]):
    """The pieces of an answer's text, each computed when it is asked for. Joined they are `completion.text`.

    A model without a tokenizer gives each id, with a blank after it.
    """

    def __init__(
        self,
        generation: Generation,
        prompt: Prompt,
        sampling: ResolvedSampling,
        tokenizer: Tokenizer | None,
        show_special: bool,
    ):
        self._generation, self._prompt, self._sampling = generation, prompt, sampling
        self._tokenizer, self._show_special = tokenizer, show_special
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer, len(prompt.taken), show_special)
        self._stops = StopTexts(sampling.stop)
        self._ids: list[int] = []
        self._ended = False

    def __next__(self) -> str:
        while not self._ended:
            token = next(self._generation, None)
            if token is None:
                self._ended = True
                piece = "" if self._decoder is None else self._stops.push(self._decoder.finish()) + self._stops.finish()
            else:
                self._ids.append(token)
                piece = f"{token} " if self._decoder is None else self._stops.push(self._decoder.push(token))
                if self._stops.found:
                    self._ended = True
                    self._generation.close()
            if piece:
                return piece
        raise StopIteration

    def close(self) -> None:
        """End the answer here and give its cache back. Text of tokens that have come is still given."""
        self._generation.close()

    def finish(self) -> Completion:
        """Run the answer to its end."""
        for _ in self:
            pass
        return self.completion

    @property
    def completion(self) -> Completion:
        """The answer as far as it has come; its `stop_reason` is "interrupted" until it has ended by itself."""
        text = None
        if self._tokenizer is not None:
            text = self._tokenizer.decode(self._ids, len(self._prompt.taken), self._show_special)
        if text is not None and self._stops.found:
            text = text[: self._stops.num_shown]
        return Completion(
            text=text,
            ids=tuple(self._ids),
            stop_reason="stop" if self._stops.found else self._sampling.stop_reason(self._generation),
            prompt_tokens=self._prompt.num_tokens,
            stats=self._generation.stats,
        )
