"""How answers are chosen and where they end: the flags, else the checkpoint's `generation_config.json`, else defaults.

                  flag             generation_config.json      default
    temperature   --temperature    temperature, do_sample      1
    top_p         --top-p          top_p                       1
    max_tokens    --max-tokens     max_new_tokens              256
    EOS                            eos_token_id                eos_token_id of config.json

The ids of both files end an answer. A `max_tokens` that no flag asks for is cut to what is left of the window.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

from wavefold.config import ModelConfig
from wavefold.engine import Generation
from wavefold.engine.defaults import FILE_NAME, generation_defaults
from wavefold.system import Notice

MAX_TOKENS = 256


@dataclass(frozen=True)
class Sampling:
    """`eos_ids` end a text; `turn_ids` are markers that end a turn of a chat. `fit_window`: see `generate`."""

    temperature: float
    top_p: float
    seed: int
    max_tokens: int
    fit_window: bool
    eos_ids: tuple[int, ...]
    turn_ids: tuple[int, ...] = ()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """All ids that end an answer."""
        return tuple(dict.fromkeys((*self.eos_ids, *self.turn_ids)))

    def values(self) -> dict[str, object]:
        """What applies, for people and programs to read."""
        return {
            "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed, "max_tokens": self.max_tokens,
            "stop_ids": list(self.stop_ids),
        }  # fmt: skip

    def stop_reason(self, generation: Generation) -> str:
        """Why the answer ended: "eos", "stop" (a turn's marker), "length", "context", or "interrupted"."""
        if generation.stop_reason == "stop":
            return "eos" if generation.stop_id in self.eos_ids else "stop"
        return generation.stop_reason or "interrupted"


def sampling_of(
    args: argparse.Namespace, folder: Path, config: ModelConfig, turn_ids: tuple[int, ...] = ()
) -> Sampling:
    """The sampling of the checkpoint in `folder` with the flags of `wavefold run`.

    Warns with a Notice that names the keys of `generation_config.json` which would change answers and are not honoured.
    Raises ValueError for a file that cannot be used.
    """
    defaults = generation_defaults(folder, config.vocab_size)
    temperature = _first(args.temperature, defaults.temperature, 1.0)
    if ignored := defaults.ignored(temperature):
        named = ", ".join(f"{key} = {value!r}" for key, value in ignored)
        warnings.warn(f"{folder / FILE_NAME}: {named}: not honoured here; answers are chosen without", Notice, 2)
    return Sampling(
        temperature,
        _first(args.top_p, defaults.top_p, 1.0),
        args.seed,
        int(_first(args.max_tokens, defaults.max_new_tokens, MAX_TOKENS)),
        args.max_tokens is None,
        tuple(dict.fromkeys((*config.eos_token_ids, *defaults.eos_token_ids))),
        turn_ids,
    )


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
