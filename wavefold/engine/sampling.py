"""How answers are chosen and where they end: by the request, else `generation_config.json`, else defaults.

                  asked for     generation_config.json      default
    temperature   temperature   temperature, do_sample      1
    top_p         top_p         top_p                       1
    max_tokens    max_tokens    max_new_tokens              256
    EOS                         eos_token_id                eos_token_id of config.json

The ids of both files end an answer. A `max_tokens` that nobody asked for is cut to the rest of the window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wavefold.config import ModelConfig
from wavefold.engine.adjust import NONE, Adjustments
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.grammar import Constraint
from wavefold.engine.sampler import check_sampling

MAX_TOKENS = 256
MOST_LOGPROBS = 20
MOST_ANSWERS = 128
MOST_STOPS = 64
MOST_STOP_CHARACTERS = 1024
"""Every piece of an answer is compared with the beginnings of its stop texts."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is chosen and where it ends. None: as the checkpoint says, else as the table above does.

    `temperature` 0 always takes the most likely token. `top_p` keeps the most likely tokens up to that probability,
    `top_k` as many of them (0: all), `min_p` those of at least that share of the first one's probability. Penalties and
    `logit_bias`, by token id: see `Adjustments`. `stop_ids` end an answer beside EOS, and so does one of the texts
    `stop`, which is not part of it. `show_special`: special tokens are written into the answer's text.

    At most one of `json_schema` (a mapping, or its text), `regex` and `choices` (texts) says what the answer's text
    must be; it then ends where nothing can follow. See `Grammars.compile` for what is refused.

    `logprobs`: log probabilities of the answer's tokens, and of as many most likely ones; `prompt_logprobs`: of the
    prompt's (None: none). `n` answers to a prompt. `echo`: the text begins with the prompt.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    show_special: bool = False
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    stop: Sequence[str] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    echo: bool = False
    json_schema: Mapping[str, object] | str | None = field(default=None, hash=False)
    regex: str | None = None
    choices: Sequence[str] = ()

    def check(self, vocab_size: int) -> None:
        """Raises ValueError that names the field, its value and what is allowed, for the first one out of range."""
        self._check_whole_numbers()
        check_sampling(_first(self.temperature, 1.0), _first(self.top_p, 1.0), self.top_k, self.min_p)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise _refused("max_tokens", self.max_tokens, "1 or more")
        if not 0 <= self.seed < 2**63:
            raise _refused("seed", self.seed, "0 to 2^63 - 1")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise _refused("repetition_penalty", self.repetition_penalty, "a number above 0 (1: no penalty)")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= (value := getattr(self, name)) <= 2:
                raise _refused(name, value, "a number from -2 to 2")
        self._check_ids(vocab_size)
        for name in ("logprobs", "prompt_logprobs"):
            if not 0 <= (getattr(self, name) or 0) <= MOST_LOGPROBS:
                raise _refused(name, getattr(self, name), f"None, or 0 to {MOST_LOGPROBS} tokens")
        if not 1 <= self.n <= MOST_ANSWERS:
            raise _refused("n", self.n, f"1 to {MOST_ANSWERS} answers")
        Constraint.of(self.json_schema, self.regex, self.choices)

    def _check_whole_numbers(self) -> None:
        for name in ("max_tokens", "seed", "top_k", "n", "logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if not (_is_whole(value) or (value is None and name not in ("seed", "top_k", "n"))):
                raise _refused(name, value, "a whole number")
        if not all(_is_whole(token) for token in self.stop_ids):
            raise _refused("stop_ids", self.stop_ids, "token ids, which are whole numbers")
        if not all(_is_whole(token) for token in self.logit_bias):
            raise _refused("logit_bias", self.logit_bias, "a bias by token id, which is a whole number")

    def _check_ids(self, vocab_size: int) -> None:
        for token, value in self.logit_bias.items():
            if not 0 <= token < vocab_size:
                raise _refused("logit_bias", {token: value}, f"token ids from 0 to {vocab_size - 1}")
            if not -100 <= value <= 100:
                raise _refused("logit_bias", {token: value}, "biases from -100 to 100")
        for token in self.stop_ids:  # a tokenizer may have more ids than the model's vocabulary
            if token < 0:
                raise _refused("stop_ids", self.stop_ids, "token ids from 0 on")
        if isinstance(self.stop, str):  # else each of its letters would end an answer
            raise ValueError(f"stop = {self.stop!r} is a single text; expected several: ({self.stop!r},)")
        if "" in self.stop:
            raise _refused("stop", self.stop, "texts of one character or more")
        if len(self.stop) > MOST_STOPS or any(len(text) > MOST_STOP_CHARACTERS for text in self.stop):
            sizes = [len(text) for text in self.stop]
            raise ValueError(
                f"stop = texts of {sizes[:4]} characters, {len(sizes)} in all, is not allowed; expected at most "
                f"{MOST_STOPS} texts of {MOST_STOP_CHARACTERS} characters"
            )

    def resolved(self, defaults: GenerationDefaults, config: ModelConfig) -> ResolvedSampling:
        """The sampling that applies to a checkpoint with these defaults."""
        return ResolvedSampling(
            temperature=_first(self.temperature, defaults.temperature, 1.0),
            top_p=_first(self.top_p, defaults.top_p, 1.0),
            seed=self.seed,
            max_tokens=int(_first(self.max_tokens, defaults.max_new_tokens, MAX_TOKENS)),
            fit_window=self.max_tokens is None,
            eos_ids=tuple(dict.fromkeys((*config.eos_token_ids, *defaults.eos_token_ids))),
            other_ids=self.stop_ids,
            stop=tuple(self.stop),
            top_k=self.top_k,
            min_p=self.min_p,
            adjustments=Adjustments(
                self.repetition_penalty, self.presence_penalty, self.frequency_penalty, self.logit_bias
            ),
            logprobs=self.logprobs,
            prompt_logprobs=self.prompt_logprobs,
            n=self.n,
            echo=self.echo,
            constraint=Constraint.of(self.json_schema, self.regex, self.choices),
        )


@dataclass(frozen=True)
class ResolvedSampling:
    """The sampling of one answer, with every value known. `fit_window`: see `generate`.

    `eos_ids` end a text; `other_ids` end an answer too, as the markers of a next turn do in a chat.
    """

    temperature: float
    top_p: float
    seed: int
    max_tokens: int
    fit_window: bool
    eos_ids: tuple[int, ...]
    other_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    top_k: int = 0
    min_p: float = 0.0
    adjustments: Adjustments = NONE
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    echo: bool = False
    constraint: Constraint | None = None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """All ids that end an answer."""
        return tuple(dict.fromkeys((*self.eos_ids, *self.other_ids)))

    @property
    def filters(self) -> tuple[float, float, int, float]:
        """One row of `sampler.Filters.of`."""
        return self.temperature, self.top_p, self.top_k, self.min_p

    def values(self) -> dict[str, object]:
        """The values by name, for people and programs to read. Those that are seldom used are left out if unused."""
        form = None if self.constraint is None else vars(self.constraint)
        more = {
            "stop": list(self.stop), "top_k": self.top_k, "min_p": self.min_p, "constraint": form,
            **vars(self.adjustments),
        }  # fmt: skip
        unused = {"stop": [], "top_k": 0, "min_p": 0, "constraint": None, **vars(NONE)}
        return {
            "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed, "max_tokens": self.max_tokens,
            "stop_ids": list(self.stop_ids), **{name: value for name, value in more.items() if value != unused[name]},
        }  # fmt: skip


def _refused(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{name} = {value!r} is not allowed; expected {expected}")


def _is_whole(value: object) -> bool:
    return hasattr(value, "__index__")


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
