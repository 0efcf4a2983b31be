"""Settings that decide the numbers of a run, beside data and model. A recipe file defines `recipe = Recipe(...)`."""

from __future__ import annotations

import math
import runpy
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

Quantize = Literal["fp4", "none"]
Optimizer = Literal["muon", "adamw"]
Activations = Literal["exact", "released"]
StoredAs = Literal["float32", "bfloat16"]

WORDS = {"quantize": Quantize, "optimizer": Optimizer, "activations": Activations, "lora_dtype": StoredAs}
POSITIVE = {"steps", "batch_tokens", "peak_lr", "clip", "mtp_every", "lora_alpha", "eval_every", "save_every"}

LIMIT, SEED_LIMIT = 2**31, 2**63
"""Upper bounds (exclusive) of numbers and of a seed."""
DEFAULT_BATCH_TOKENS = 4096
WARMUP_MOST, WARMUP_SHARE, DECAY_SHARE = 100, 25, 2
"""By default a run warms up for one step in 25, at most 100 steps, and decays over its second half."""


@dataclass(frozen=True)
class Recipe:
    """The defaults train the nano preset. Report section 4.2 has the published recipe. Lengths are in tokens.

    Raises ValueError, with key, value and the allowed values, for a value of another type or out of range, and for a
    schedule that does not fit into the steps.
    """

    steps: int = 2600
    length_stages: tuple[tuple[int, int], ...] = ((0, 1024),)
    """(first step, tokens of a sequence), in order. The first stage begins at step 0."""
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    batch_first: int = 0
    """Tokens of the first batch (0: `batch_tokens`). Batches grow over `batch_ramp` steps."""
    batch_ramp: int = 0

    optimizer: Optimizer = "muon"
    """"muon": matrices by Muon, the rest by AdamW; "adamw": all by AdamW."""
    peak_lr: float = 1.6e-3
    final_lr: float = 0.1
    """End of the last cosine, as a factor of `peak_lr`."""
    warmup: int | None = None
    """Steps of the first, linear rise (None: one in 25 of `steps`, 100 at most)."""
    decay_steps: int | None = None
    """Steps of the last cosine (None: half of `steps`). Before it the rate is constant."""
    weight_decay: float = 0.1
    momentum: float = 0.95
    clip: float = 1.0

    mtp_weight: float = 0.3
    mtp_final: float = 0.1
    """Weight of the MTP loss while the learning rate decays."""
    mtp_every: int = 4

    dense_steps: int = 0
    """Steps in which indexed layers attend to all entries and the indexer is idle."""
    indexer_warmup: int = 0
    """Steps after `dense_steps` in which only the indexer learns."""
    index_weight: float = 1.0
    balance_speed: float = 1e-3
    balance_weight: float = 1e-4

    quantize: Quantize = "fp4"
    """"fp4": weights as an export holds them, FP4 experts and index; "none": weights in bfloat16."""
    quantize_from: int = 0
    """First step with `quantize`. Before it weights are bfloat16 and the index is not rounded."""
    activations: Activations = "exact"
    """"released": inputs of quantized products and KV entries through FP8 too."""
    fim_rate: float = 0.0
    """Share of documents that become fill-in-the-middle."""
    fim_lines: float = 0.0
    """Share of their holes that are a line or a part of one. The others lie between any two tokens."""
    last_steps: int = 0
    """Steps at the end that learn from other data, those of `--last-data`."""

    lora_rank: int = 0
    """Rank of adapters on attention and shared parts, which alone are trained (0: all parameters are trained)."""
    lora_alpha: float = 16.0
    lora_dtype: StoredAs = "float32"
    """Dtype of the adapters that are written in PEFT's layout. Training has float32."""
    lora_greedy: bool = False
    """Answers through the adapter are the likeliest tokens, unless a request says otherwise."""

    expert_waves: int = 0
    """Number of waves for routed experts that are shared out over processes (0: every process has all experts)."""
    recompute: bool = False
    """Keep only the inputs of blocks, and run blocks again for their gradients."""
    anticipate: int = 0
    """Anticipatory routing after a loss spike: experts are chosen by weights of this many steps ago (0: never)."""
    spike: float = 1.5
    """A loss above this times its running mean is a spike: the run goes back to its last state of `save_every`."""
    eval_every: int = 500
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.length_stages, list | tuple):  # a list, as in JSON, is allowed
            stages = tuple(tuple(s) if isinstance(s, list) else s for s in self.length_stages)
            object.__setattr__(self, "length_stages", stages)
        for key, kind in KINDS.items():
            value = getattr(self, key)
            if value is None and key in SHARES:
                continue
            _check_type(key, kind, value)
            if kind == "float":  # 1 and 1.0 are the same recipe
                object.__setattr__(self, key, float(value))
        _check_stages(self.length_stages)
        longest = max(tokens for _, tokens in self.length_stages)
        if longest > self.batch_tokens != DEFAULT_BATCH_TOKENS:
            _require(False, "batch_tokens", self.batch_tokens,
                     f"{longest} or more: the longest sequences of length_stages")  # fmt: skip
        _require(longest <= self.batch_tokens, "length_stages", self.length_stages,
                 f"sequences of at most batch_tokens = {self.batch_tokens} tokens")  # fmt: skip
        for key, upper in UPPER.items():
            _require(getattr(self, key) <= upper, key, getattr(self, key), f"a number from 0 to {upper}")
        _require(self.momentum < 1, "momentum", self.momentum, "a number from 0 to below 1")
        _require(self.spike > 1, "spike", self.spike, "a number above 1")
        self._check_schedule()

    def _check_schedule(self) -> None:
        """Raises ValueError with all keys that have no room in the steps, or no effect without another key."""
        problems = [_refusal(key, getattr(self, key), allowed) for fits, key, allowed in self._rooms() if not fits]
        if problems:
            raise ValueError("; ".join(problems))

    def _rooms(self) -> Iterator[tuple[bool, str, str]]:
        """(whether its value is allowed, key, allowed values) of keys that share steps or a batch, or need a key."""
        steps = self.steps
        within = {"warmup": steps - 1, "quantize_from": steps - 1, "last_steps": steps - 1, "dense_steps": steps,
                  "batch_ramp": steps}  # fmt: skip
        for key, most in within.items():
            allowed = f"at most steps = {steps}" if most == steps else f"fewer than steps = {steps}"
            yield (getattr(self, key) or 0) <= most, key, allowed
        after = ("decay_steps", "warmup", self.num_warmup), ("indexer_warmup", "dense_steps", self.dense_steps)
        for key, other, before in after:
            left = max(0, steps - before)
            allowed = f"at most {left}: steps = {steps} without {other} = {before}"
            yield (getattr(self, key) or 0) <= left, key, allowed
        last = self.length_stages[-1][0]
        yield last < steps, "length_stages", f"stages that begin before steps = {steps}; one begins at {last}"
        yield self.batch_first <= self.batch_tokens, "batch_first", f"at most batch_tokens = {self.batch_tokens}"
        for key, other in (("batch_first", "batch_ramp"), ("batch_ramp", "batch_first"), ("fim_lines", "fim_rate")):
            has_effect = not getattr(self, key) or bool(getattr(self, other))
            yield has_effect, key, f"0 without {other}, or {other} above 0"

    @property
    def num_warmup(self) -> int:
        """Steps of the warm-up: `warmup`, or its default share, or fewer if `decay_steps` leaves less room."""
        if self.warmup is not None:
            return self.warmup
        return max(0, min(WARMUP_MOST, self.steps // WARMUP_SHARE, self.steps - (self.decay_steps or 0)))

    @property
    def num_decay(self) -> int:
        """Steps of the last cosine: `decay_steps`, or its default share, or fewer if the warm-up leaves less room."""
        if self.decay_steps is not None:
            return self.decay_steps
        return min(self.steps // DECAY_SHARE, self.steps - self.num_warmup)


SHARES = {"warmup", "decay_steps"}
"""Keys for which None means a share of the run."""
UPPER = {"final_lr": 1, "fim_rate": 1, "fim_lines": 1, "weight_decay": 1}
KINDS = {
    f.name: "word" if f.name in WORDS else {"tuple[tuple[int, int], ...]": "stages", "int | None": "int"}.get(
        str(f.type), str(f.type)
    )
    for f in fields(Recipe)
}  # fmt: skip
"""Kind of the values of each key: int, float, bool, word, stages."""


def allowed_words(key: str) -> tuple[str, ...]:
    """Returns the allowed values of a key whose kind is "word"."""
    return get_args(WORDS[key])


def shown(value: object) -> str:
    """Returns a value for a message, cut to 60 characters."""
    text = repr(value[:100] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(_refusal(key, value, allowed))


def _refusal(key: str, value: object, allowed: str) -> str:
    return f"{key} = {shown(value)} is not allowed; expected {allowed}"


def _check_type(key: str, kind: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "int":
        limit, power = (SEED_LIMIT, 63) if key == "seed" else (LIMIT, 31)
        _require(type(value) is int and value < limit, key, value, f"an integer below 2^{power}")
    elif kind == "float":
        _require(number and abs(value) < LIMIT and math.isfinite(value), key, value, "a number below 2^31")
    elif kind == "bool":
        _require(isinstance(value, bool), key, value, "True or False")
    elif kind == "word":
        _require(value in allowed_words(key), key, value, " or ".join(map(repr, allowed_words(key))))
    if kind in ("int", "float"):
        _require(value > 0 or (value == 0 and key not in POSITIVE), key, value,
                 "a positive number" if key in POSITIVE else "a positive number or 0")  # fmt: skip


def _check_stages(stages: Any) -> None:
    key = "length_stages"
    pairs = isinstance(stages, tuple) and all(isinstance(s, tuple) and len(s) == 2 for s in stages)
    fits = pairs and all(type(number) is int and number < LIMIT for stage in stages for number in stage)
    _require(fits, key, stages, "((first step, tokens), ...) of integers")
    firsts = [first for first, _ in stages]
    _require(
        bool(firsts) and firsts[0] == 0 and firsts == sorted(set(firsts)) and min(n for _, n in stages) >= 1,
        key, stages, "(first step, tokens) in ascending order, the first from step 0",
    )  # fmt: skip


def load_recipe(path: Path) -> Recipe:
    """Runs a Python file and returns its `recipe`. Raises ValueError if it defines none."""
    if not path.is_file():
        raise ValueError(f"{path}: no such recipe; expected a Python file that defines recipe = Recipe(...)")
    try:
        found = runpy.run_path(str(path)).get("recipe")
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: is no Python ({error.msg})") from None
    except TypeError as error:  # Recipe(...) with an unknown key
        raise ValueError(f"{path}: {error}; keys are {', '.join(f.name for f in fields(Recipe))}") from None
    if not isinstance(found, Recipe):
        raise ValueError(f"{path}: defines no recipe; expected recipe = Recipe(...)")
    return found
