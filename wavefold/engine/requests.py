"""Requests of prompts and samplings: what a model's tokenizer, window and defaults make of what a caller wants.

text -> BOS and ids, the last token open to another one (chat/healing.py) -> Request, which carries its Answer
"""

from __future__ import annotations

import itertools
import threading
import warnings
from pathlib import Path

import torch

from wavefold.chat import Prompt, Tokenizer, heal
from wavefold.config import ModelConfig
from wavefold.engine.adapters import Loaded, LoadedAdapters
from wavefold.engine.answer import Answer
from wavefold.engine.arguments import TEXT, shown
from wavefold.engine.defaults import GenerationDefaults, defaults_place
from wavefold.engine.generate import fitted
from wavefold.engine.grammar import Grammar, Grammars
from wavefold.engine.prompts import TextOrIds, packed_ids, token_ids
from wavefold.engine.request import Request
from wavefold.engine.sampling import ResolvedSampling, Sampling
from wavefold.ops import Adapter
from wavefold.system import Notice

MOST_GRAMMARS = 8
"""Sets of ids that end a text whose compiled grammars are kept."""


class Requests:
    """Makes the requests of one model: the checkpoint in `folder`, with its tokenizer if it has one.

    Any thread may call it. Nothing runs here. `dtype`: of the model's activations.
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer | None, config: ModelConfig, defaults: GenerationDefaults,
        dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        self.folder, self.tokenizer, self.config, self.defaults = folder, tokenizer, config, defaults
        self.adapters = LoadedAdapters(config, dtype)
        """Those that requests may name."""
        self._numbers = itertools.count()
        self._warned: set[tuple[Path, str]] = set()
        self._lock = threading.Lock()
        self._grammars: dict[tuple[int, ...], Grammars] = {}
        """By the ids that end a text: adapters may have more."""

    def resolved(self, sampling: Sampling, adapter: str | None = None) -> ResolvedSampling:
        """Returns the sampling that applies: `LLM.resolved`."""
        return self._resolved(sampling, self.adapters.loaded(adapter))

    def defaults_through(self, adapter: str | None) -> GenerationDefaults:
        """Returns what holds for values that a request leaves open: the adapter's, else the checkpoint's."""
        return self._defaults(self.adapters.loaded(adapter))

    def _defaults(self, through: Loaded | None) -> GenerationDefaults:
        return self.defaults if through is None else through.defaults.over(self.defaults)

    def _resolved(self, sampling: Sampling, through: Loaded | None) -> ResolvedSampling:
        sampling.check(self.config.vocab_size)
        if sampling.stop:
            self.needs_tokenizer()
        resolved = sampling.resolved(self._defaults(through), self.config)
        self._tell_ignored(defaults_place(self.folder), self.defaults, resolved)
        if through is not None:
            self._tell_ignored(defaults_place(through.folder), through.defaults, resolved)
        return resolved

    def _tell_ignored(self, place: Path, defaults: GenerationDefaults, resolved: ResolvedSampling) -> None:
        """Names the keys of a file that would change such an answer and are not honoured, once."""
        ignored = defaults.ignored(resolved.temperature)
        keys = {(place, key) for key, _ in ignored}
        if keys - self._warned:
            self._warned |= keys
            named = ", ".join(f"{key} = {value!r}" for key, value in ignored)
            message = f"{place}: {named}: not honoured here; answers are chosen without"
            warnings.warn(message, Notice, stacklevel=5)

    def check(self, sampling: Sampling) -> None:
        """Raises ValueError for what an answer cannot be held to, or cannot be chosen by."""
        self._grammar("", self.resolved(sampling))

    def prompt(self, text: str, allow_special: bool = False) -> Prompt:
        """Returns `text` after BOS; its last token may become another one. Raises ValueError without a tokenizer."""
        tokenizer, text = self.needs_tokenizer(), TEXT.used("text", text)
        return heal(tokenizer, tokenizer.encode(text, bos=True, allow_special=allow_special))

    def of(self, prompt: TextOrIds, sampling: Sampling, adapter: str | None = None) -> list[Request]:
        """Returns a request for each of a prompt's `n` answers, through the adapter of this name.

        Raises ValueError for what cannot be used.
        """
        loaded = self.adapters.loaded(adapter)
        resolved, through = self._resolved(sampling, loaded), None if loaded is None else loaded.adapter
        return [self.one(prompt, sampling, resolved, index, through) for index in range(sampling.n)]

    def one(
        self, prompt: TextOrIds, sampling: Sampling, resolved: ResolvedSampling, index: int = 0,
        adapter: Adapter | None = None,
    ) -> Request:  # fmt: skip
        """Returns the request for answer `index` to a prompt. Raises ValueError if it does not fit the window."""
        text = prompt if isinstance(prompt, str) else None
        grammar = self._grammar(prompt, resolved)
        if isinstance(prompt, str) and grammar is not None:
            prompt = Prompt(self.needs_tokenizer().encode(prompt, bos=True))
        elif isinstance(prompt, str):
            prompt = self.prompt(prompt)
        elif not isinstance(prompt, Prompt):
            prompt = Prompt(packed_ids("prompt", prompt))
        window = self.config.max_position_embeddings
        max_tokens, limit = fitted(len(prompt.ids), resolved.max_tokens, window, resolved.fit_window)
        if resolved.echo and text is None:
            taken = prompt.taken.decode("utf-8", errors="replace")
            text = self.needs_tokenizer().decode(prompt.ids, show_special=sampling.show_special) + taken
        echo_text = text or "" if resolved.echo else ""
        answer = Answer(
            prompt, resolved, limit, self.tokenizer, sampling.show_special, index, echo_text,
            grammar=None if grammar is None else grammar.start(),
        )  # fmt: skip
        return Request(next(self._numbers), prompt.ids, max_tokens, sampling=answer, adapter=adapter)

    def scored(self, prompt: TextOrIds, continuation: TextOrIds) -> Request:
        """Returns the request for the log probabilities of a continuation: `LLM.score`."""
        sampling = Sampling(max_tokens=1, temperature=0, prompt_logprobs=0)
        first, more = self._ids("prompt", prompt, bos=True), self._ids("continuation", continuation, bos=False)
        if not first or not more:
            raise ValueError(
                f"prompt {shown(prompt)} and continuation {shown(continuation)}: expected one token each at least"
            )
        answer = Answer(Prompt([*first, *more]), self.resolved(sampling), scored_from=len(first))
        return Request(next(self._numbers), answer.prompt.ids, 1, sampling=answer)

    def needs_tokenizer(self) -> Tokenizer:
        """Returns the tokenizer. Raises ValueError where there is none."""
        if self.tokenizer is None:
            raise ValueError(f"{self.folder}: holds no tokenizer that can be used; give token ids in place of text")
        return self.tokenizer

    def _grammar(self, prompt: TextOrIds, resolved: ResolvedSampling) -> Grammar | None:
        """Returns the compiled constraint of an answer, or None. Raises ValueError for one that cannot be used."""
        if resolved.constraint is None:
            return None
        if isinstance(prompt, Prompt) and prompt.first_ids is not None:
            raise ValueError(
                f"a prompt whose last token is open to another one and {resolved.constraint.kind} are not allowed "
                "together; give the prompt as a text or as token ids"
            )
        tokenizer = self.needs_tokenizer()
        with self._lock:
            if (grammars := self._grammars.pop(resolved.eos_ids, None)) is None:
                if len(self._grammars) >= MOST_GRAMMARS:  # the one used longest ago
                    del self._grammars[next(iter(self._grammars))]
                grammars = Grammars(tokenizer, self.config.vocab_size, resolved.eos_ids)
            self._grammars[resolved.eos_ids] = grammars
            return grammars.compile(resolved.constraint)

    def _ids(self, name: str, text: TextOrIds, bos: bool) -> list[int]:
        if isinstance(text, str):
            return self.needs_tokenizer().encode(text, bos=bos)
        return list(text.ids) if isinstance(text, Prompt) else token_ids(name, text)
