"""How a client says by which rules tokens are chosen: values, their bounds, and the fields of `Sampling` they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, Tag

from wavefold.server.protocol.bodies import BY_FORM, Many
from wavefold.server.protocol.errors import INVALID, Refused

SEEDS = 1 << 63
"""The engine has as many, from 0 on; OpenAI has whole numbers of 64 bits with a sign."""
TOKEN_ID = re.compile("[0-9]{1,9}")
OWN_NAMES = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed",
)  # fmt: skip
"""Fields of bodies that `Sampling` has under the same names."""

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=-1, lt=1 << 31, description="0 and -1: all tokens.")]
MinP = Annotated[float, Field(ge=0, le=1)]
Repetition = Annotated[float, Field(ge=1e-3, le=1e3)]
ReturnIds = Annotated[
    bool,
    Field(description="As vLLM has it: `prompt_token_ids`, and `token_ids` of each choice, those of a chunk in it."),
]
Biases = dict[str, Annotated[float, Field(ge=-100, le=100)]]
Seed = Annotated[int, Field(ge=-SEEDS, lt=SEEDS)]
NumLogprobs = Annotated[int, Field(ge=0, le=20)]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]
Stops = Annotated[
    Annotated[StopText, Tag("~text")] | Annotated[Annotated[Many[StopText], Field(max_length=16)], Tag("~parts")],
    BY_FORM,
]


def sampling_of(body: Any) -> dict[str, Any]:
    """The fields of `Sampling` that a body sets under their own names.

    A negative seed draws as the one that is 2^63 greater: no two negative ones draw alike. `top_k` of -1 is vLLM's 0.
    """
    values = {name: getattr(body, name, None) for name in OWN_NAMES}
    fields = {name: value for name, value in values.items() if value is not None}
    if "seed" in fields:
        fields["seed"] %= SEEDS
    if "top_k" in fields:
        fields["top_k"] = max(fields["top_k"], 0)
    return fields


def biases_of(biases: dict[str, float] | None) -> dict[int, float]:
    """Returns `logit_bias` by token id. Raises `Refused` for keys that are none."""
    wrong = next((token for token in biases or {} if not TOKEN_ID.fullmatch(token)), None)
    if wrong is not None:
        raise Refused(
            400, f"logit_bias: {wrong[:50]!r} is no token id; expected whole numbers as texts, as keys", INVALID,
            "logit_bias",
        )  # fmt: skip
    return {int(token): float(bias) for token, bias in (biases or {}).items()}


def check_biases(biases: Mapping[int, float], vocab_size: int) -> None:
    """Raises `Refused` for a token that the model lacks."""
    wrong = next((token for token in biases if token >= vocab_size), None)
    if wrong is not None:
        raise Refused(
            400, f"logit_bias: the model has no token {wrong}; expected ids from 0 to {vocab_size - 1}", INVALID,
            "logit_bias",
        )  # fmt: skip
