"""`generation_config.json`: how the makers of a checkpoint, or of an adapter, sample from it.

The keys `temperature`, `top_p`, `max_new_tokens`, `eos_token_id` (one id, or a list) and `do_sample` (false:
temperature 0) are read. Every other key that would change an answer is named, since it is not honoured here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wavefold.checkpoint.side_files import GENERATION_CONFIG
from wavefold.gguf import is_gguf, open_parts, sampling_values

READ = frozenset({"temperature", "top_p", "max_new_tokens", "eos_token_id", "do_sample"})

CHANGE_NO_TOKENS = frozenset({
    "_from_model_config", "_commit_hash", "transformers_version", "generation_config_class", "bos_token_id",
    "pad_token_id", "decoder_start_token_id", "use_cache", "cache_implementation", "cache_config",
    "return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "return_legacy_cache", "max_length",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "early_stopping",
    "length_penalty", "disable_compile", "compile_config", "max_time", "num_return_sequences", "remove_invalid_values",
    "trust_remote_code", "prefill_chunk_size", "max_matching_ngram_size", "prompt_lookup_num_tokens",
})  # fmt: skip
"""Keys about speed, outputs of transformers, padding, or a length that `max_new_tokens` and the window replace."""

NEUTRAL: Mapping[str, object] = {
    "top_k": 0, "min_p": 0, "top_h": 1, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0,
    "repetition_penalty": 1, "encoder_repetition_penalty": 1, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "presence_penalty": 0, "frequency_penalty": 0, "num_beams": 1,
    "num_beam_groups": 1, "diversity_penalty": 0, "penalty_alpha": 0, "min_length": 0, "min_new_tokens": 0,
    "renormalize_logits": False, "guidance_scale": 1, "token_healing": False,
}  # fmt: skip
"""Keys that are not honoured here, with the value that asks for nothing."""

MOST_BYTES = 1 << 20
"""Of a file."""

LARGEST = 2.0**31
"""Numbers are below this."""

OF_SAMPLING = frozenset({"top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "renormalize_logits"})
"""Keys that change nothing at temperature 0."""


@dataclass(frozen=True)
class GenerationDefaults:
    """The values of a `generation_config.json`; None for a key that it lacks.

    `temperature` is 0 where `do_sample` is false. `not_honoured` holds the keys, with their values, that would change
    an answer and are not honoured here.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    not_honoured: tuple[tuple[str, object], ...] = ()
    do_sample: bool | None = field(default=None, repr=False)

    def over(self, base: GenerationDefaults) -> GenerationDefaults:
        """Returns the defaults of an adapter that has these: its base's where they say nothing. EOS are those of both.

        `do_sample` true alone takes back a base's false.
        """
        of_base = None if self.do_sample and base.do_sample is False else base.temperature
        return GenerationDefaults(
            of_base if self.temperature is None else self.temperature,
            base.top_p if self.top_p is None else self.top_p,
            base.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens,
            (*base.eos_token_ids, *self.eos_token_ids),
            (*base.not_honoured, *self.not_honoured),
            base.do_sample if self.do_sample is None else self.do_sample,
        )

    def to_dict(self) -> dict[str, object]:
        """The keys of a file that gives these defaults."""
        is_at_odds = self.temperature and self.do_sample is False  # an adapter's temperature over its base's false
        values = {
            "do_sample": None if is_at_odds else self.do_sample, "temperature": self.temperature, "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens, "eos_token_id": list(dict.fromkeys(self.eos_token_ids)) or None,
            **dict(self.not_honoured),
        }  # fmt: skip
        return {key: value for key, value in values.items() if value is not None}

    def ignored(self, temperature: float) -> tuple[tuple[str, object], ...]:
        """The keys of `not_honoured` that would change an answer at this temperature."""
        return tuple(item for item in self.not_honoured if temperature > 0 or item[0] not in OF_SAMPLING)


def generation_defaults(folder: Path, vocab_size: int) -> GenerationDefaults:
    """The defaults of the checkpoint in `folder`, all None where it has no such file.

    Raises ValueError that names the file, the key and the value for one that is out of range or of another type.
    """
    if is_gguf(folder):
        return _named(folder, sampling_values(open_parts(folder).values), vocab_size)
    return defaults_in(folder, vocab_size)


def defaults_in(folder: Path, vocab_size: int) -> GenerationDefaults:
    """The defaults in the folder of a checkpoint or of an adapter, all None where it has no such file.

    Raises ValueError as `generation_defaults`, and for more than `MOST_BYTES`.
    """
    path = folder / GENERATION_CONFIG
    if not path.exists():
        return GenerationDefaults()
    if not path.is_file():
        raise ValueError(f"{path}: is no file; remove it")
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"{path}: more than {MOST_BYTES:,} bytes are not allowed; mend or remove it")
    try:
        values = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}); mend or remove it") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds {type(values).__name__}, expected a JSON object")
    return _named(path, values, vocab_size)


def _named(place: Path, values: Mapping[str, object], vocab_size: int) -> GenerationDefaults:
    """Returns checked values. Raises ValueError that names the place."""
    try:
        return _checked(values, vocab_size)
    except ValueError as error:
        raise ValueError(f"{place}: {error}; mend it, or remove the key") from None


def joined_defaults(base: Path, adapter: Path, vocab_size: int) -> GenerationDefaults | None:
    """The defaults of an adapter over its base, both folders; None where the adapter has none. Raises ValueError."""
    if not (adapter / GENERATION_CONFIG).exists():
        return None
    return defaults_in(adapter, vocab_size).over(defaults_in(base, vocab_size))


def defaults_place(folder: Path) -> Path:
    """Where a checkpoint's defaults are: a file in its folder, or the keys of a GGUF file."""
    return folder if is_gguf(folder) else folder / GENERATION_CONFIG


def _checked(values: Mapping[str, object], vocab_size: int) -> GenerationDefaults:
    temperature = _number(values, "temperature", "a number from 0", lambda x: x >= 0)
    top_p = _number(values, "top_p", "a number above 0, at most 1", lambda x: 0 < x <= 1)
    sampled = values.get("do_sample")
    if sampled is not None and not isinstance(sampled, bool):
        raise ValueError(f"do_sample = {sampled!r} is not allowed; expected true or false")
    longest = values.get("max_new_tokens")
    if longest is not None and (type(longest) is not int or longest < 1):
        raise ValueError(f"max_new_tokens = {longest!r} is not allowed; expected a whole number from 1")
    listed = values.get("eos_token_id")
    ids: list[int] = []
    for id_ in listed if isinstance(listed, list) else [] if listed is None else [listed]:
        if type(id_) is int and 0 <= id_ < vocab_size:
            ids.append(id_)
        else:
            raise ValueError(f"eos_token_id = {listed!r} is not allowed; expected ids from 0 to {vocab_size - 1}")
    others = [(key, value) for key, value in values.items() if _changes_answers(key, value)]
    drawn_at = 0.0 if sampled is False else temperature
    return GenerationDefaults(drawn_at, top_p, longest, tuple(ids), tuple(others), sampled)


def _number(values: Mapping[str, object], key: str, allowed: str, fits: Callable[[float], bool]) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST or not fits(value):
        raise ValueError(f"{key} = {value!r} is not allowed; expected {allowed}")
    return float(value)


def _changes_answers(key: str, value: object) -> bool:
    if key in READ or key in CHANGE_NO_TOKENS or value is None:
        return False
    return key not in NEUTRAL or value != NEUTRAL[key]
