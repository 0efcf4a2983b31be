"""How answers are chosen and where they end: by the request, else `generation_config.json`, else defaults.

A request through an adapter has the adapter's `generation_config.json` before the checkpoint's.

                  asked for     generation_config.json      default
    temperature   temperature   temperature, do_sample      1
    top_p         top_p         top_p                       1
    max_tokens    max_tokens    max_new_tokens              256
    EOS                         eos_token_id                eos_token_id of config.json

The ids of all files end an answer. A `max_tokens` that nobody asked for is cut to the rest of the window.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from wavefold.config import ModelConfig
from wavefold.engine.adjust import NONE, Adjustments
from wavefold.engine.arguments import FLAG, TEXT, Rule, by_key, kind, number, refused, several, shown, text, whole
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.grammar import Constraint
from wavefold.engine.sampler import FILTER_RULES
from wavefold.engine.tools import CHOICE_FORM, FORM, checked_calls

MAX_TOKENS = 256
MOST_LOGPROBS = 20
MOST_ANSWERS = 128
MOST_STOPS = 64
MOST_STOP_CHARACTERS = 1024
"""Every piece of an answer is compared with the beginnings of its stop texts."""


def _pattern(value: Any) -> str:
    """Returns a regular expression as a text. Raises ValueError for a compiled one of bytes or with flags."""
    if isinstance(value, re.Pattern):
        if value.flags != re.UNICODE:  # that of every text
            raise ValueError
        value = value.pattern
    return str(TEXT.read(value))


_PENALTY = number("from -2 to 2 (0: none)", lambda x: -2 <= x <= 2).or_none(0.0)
_COUNT = whole(0, MOST_LOGPROBS).or_none()
_STOP = f"a list of at most {MOST_STOPS} texts of 1 to {MOST_STOP_CHARACTERS:,} characters"
RULES: Mapping[str, Rule] = {
    "max_tokens": whole(1).or_none(),
    "temperature": FILTER_RULES["temperature"].or_none(),
    "top_p": FILTER_RULES["top_p"].or_none(),
    "seed": whole(0),
    "stop_ids": several(whole(0), "a list of token ids, whole numbers from 0 to 2^63 - 1").or_none(()),
    "show_special": FLAG,
    "top_k": FILTER_RULES["top_k"].or_none(0),
    "min_p": FILTER_RULES["min_p"].or_none(0.0),
    "repetition_penalty": number("from 0.001 to 1000 (1: no penalty)", lambda x: 1e-3 <= x <= 1e3).or_none(1.0),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logit_bias": by_key(
        whole(0),
        number("", lambda x: -100 <= x <= 100),
        "a mapping of token ids (whole numbers from 0 on) to biases from -100 to 100",
    ).or_none({}),
    "stop": several(text(1, MOST_STOP_CHARACTERS), _STOP, most=MOST_STOPS).or_none(()),
    "logprobs": _COUNT,
    "prompt_logprobs": _COUNT,
    "n": whole(1, MOST_ANSWERS),
    "echo": FLAG,
    "json_schema": kind((Mapping, str, bool), "a schema: a mapping, or its text in JSON").or_none(),
    "regex": Rule(_pattern, "a regular expression: a text, or a compiled one of text without flags").or_none(),
    "choices": several(text(1), "texts of one character or more in a list, at least one", least=1).or_none(),
    "tools": several(kind(Mapping, FORM), f"a list of tools, each {FORM}").or_none(),
    "tool_choice": kind((str, Mapping), CHOICE_FORM).or_none(),
    "parallel_tool_calls": FLAG.or_none(True),
    "thinking": FLAG.or_none(False),
}
"""The fields of `Sampling`: what each may be, and what None means."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is chosen and where it ends. `Sampling()` chooses as the makers of the checkpoint do.

    field                default   allowed        meaning
    max_tokens           None      from 1         tokens of the answer at most; None: the checkpoint's,
                                                  else 256, then cut to the rest of the window
    temperature          None      from 0         of the draw; 0: always the most likely token; None: the checkpoint's,
                                                  else 1
    top_p                None      above 0, to 1  keeps the most likely tokens up to this probability; 1: all; None: the
                                                  checkpoint's, else 1
    top_k                0         from 0         keeps as many of the most likely tokens; 0: all
    min_p                0         0 to 1         keeps tokens of this share of the best one's probability; 0: all
    seed                 0         0 to 2^63 - 1  the same seed draws the same tokens from the same logits
    n                    1         1 to 128       answers to a prompt; each has random numbers of its own
    repetition_penalty   1         0.001 to 1000 divides positive logits, and multiplies negative ones, of tokens in
                                                  prompt or answer; 1: none
    presence_penalty     0         -2 to 2        is subtracted from the logits of tokens in the answer; 0: none
    frequency_penalty    0         -2 to 2        the same, as often as a token is in the answer; 0: none
    logit_bias           {}        -100 to 100    {token id: number that is added to its logit}
    stop_ids             ()        from 0         token ids that end the answer, beside EOS
    stop                 ()        64 texts       texts that end the answer and are not part of it; 1 to 1,024
                                                  characters each
    json_schema          None      mapping, text  the answer's text is JSON that this schema allows
    regex                None      text, Pattern  the answer's text is one that this expression matches as a whole; a
                                                  compiled expression must be one of text without flags
    choices              None      texts          the answer's text is one of these, of which there is at least one
    tools                None      OpenAI's form  the answer's calls are of these tools, and their arguments are valid
    tool_choice          None      auto, required "auto", or None: text, then calls or none; "required": calls alone;
                                   none, a tool   "none": text without calls; a tool's name, or OpenAI's form: one call
    parallel_tool_calls  True      True, False    several calls are allowed
    thinking             False     True, False    the answer reasons first; its form begins after `</think>`
    logprobs             None      0 to 20        log probabilities of the answer's tokens, and of so many most likely
                                                  ones; None: none
    prompt_logprobs      None      0 to 20        the same of the prompt's tokens
    echo                 False     True, False    the text begins with the prompt
    show_special         False     True, False    special tokens are written into the text

    "The checkpoint's" is what its `generation_config.json` says, or before it that of the adapter that is asked. The
    constructor raises ValueError for a value of another type or range. None is allowed for all but `seed`, `n`, `echo`
    and `show_special`, and means the default. Numbers may be numpy's; lists become tuples.

    At most one of `json_schema`, `regex`, `choices` and `tools` holds the answer to a form; with `json_schema` and
    `tools` it is JSON of that schema, or calls. See `Completion` for how such an answer ends, and `Grammars.compile`
    for what is refused.

    Log probabilities are the model's own: those before temperature, filters, penalties, bias and the mask of a form.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    stop_ids: Sequence[int] = ()
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
    regex: str | re.Pattern[str] | None = None
    choices: Sequence[str] | None = None
    tools: Sequence[Mapping[str, object]] | None = field(default=None, hash=False)
    tool_choice: str | Mapping[str, object] | None = field(default=None, hash=False)
    parallel_tool_calls: bool = True
    thinking: bool = False

    def __post_init__(self) -> None:
        for name in ("stop", "choices"):
            if isinstance(value := getattr(self, name), str):  # else each of its letters would be one
                raise ValueError(f"{name} = {shown(value)} is a single text; expected several: ({shown(value)},)")
        for name, rule in RULES.items():
            object.__setattr__(self, name, rule.used(name, getattr(self, name)))
        _ = self._constraint  # refuses what it cannot be

    @cached_property
    def _constraint(self) -> Constraint | None:
        calls = checked_calls(self.tools or (), self.tool_choice, self.parallel_tool_calls)
        form = Constraint.of(self.json_schema, self.regex, self.choices or (), calls)  # type: ignore[arg-type]
        return form if form is None else replace(form, after_thinking=self.thinking)

    def check(self, vocab_size: int) -> None:
        """Raises ValueError for what a model with so many tokens refuses: a bias for another one."""
        for token, value in self.logit_bias.items():
            if token >= vocab_size:
                raise refused("logit_bias", {token: value}, f"token ids from 0 to {vocab_size - 1}")

    def resolved(self, defaults: GenerationDefaults, config: ModelConfig) -> ResolvedSampling:
        """The sampling that applies to a checkpoint with these defaults."""
        return ResolvedSampling(
            temperature=_first(self.temperature, defaults.temperature, 1.0),
            top_p=_first(self.top_p, defaults.top_p, 1.0),
            seed=self.seed,
            max_tokens=int(_first(self.max_tokens, defaults.max_new_tokens, MAX_TOKENS)),
            fit_window=self.max_tokens is None,
            eos_ids=tuple(dict.fromkeys((*config.eos_token_ids, *defaults.eos_token_ids))),
            other_ids=tuple(self.stop_ids),
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
            constraint=self._constraint,
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


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
