"""How answers are chosen and where they end: by the request, else `generation_config.json`, else defaults.

                  asked for     generation_config.json      default
    temperature   temperature   temperature, do_sample      1
    top_p         top_p         top_p                       1
    max_tokens    max_tokens    max_new_tokens              256
    EOS                         eos_token_id                eos_token_id of config.json

The ids of both files end an answer. A `max_tokens` that nobody asked for is cut to the rest of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

from wavefold.config import ModelConfig
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.generate import Generation

MAX_TOKENS = 256


@dataclass(frozen=True)
class Sampling:
    """How an answer is chosen and where it ends. None: as the checkpoint says, else as the table above does.

    `temperature` 0 always takes the most likely token. `top_p` keeps the most likely tokens up to that probability.
    `stop_ids` end an answer beside EOS. `show_special`: special tokens are written into the answer's text.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    show_special: bool = False

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

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """All ids that end an answer."""
        return tuple(dict.fromkeys((*self.eos_ids, *self.other_ids)))

    def values(self) -> dict[str, object]:
        """The values by name, for people and programs to read."""
        return {
            "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed, "max_tokens": self.max_tokens,
            "stop_ids": list(self.stop_ids),
        }  # fmt: skip

    def stop_reason(self, generation: Generation) -> str:
        """Why the answer ended: "eos", "stop" (another of `stop_ids`), "length", "context", or "interrupted"."""
        if generation.stop_reason == "stop":
            return "eos" if generation.stop_id in self.eos_ids else "stop"
        return generation.stop_reason or "interrupted"


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
