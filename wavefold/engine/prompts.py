"""Prompts and their samplings as callers give them: lists, texts, token ids, or an error that says what is wrong."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from typing import Any

import numpy as np

from wavefold.chat import Prompt
from wavefold.engine.arguments import as_whole, items_of, refused, shown
from wavefold.engine.sampling import Sampling

TextOrIds = str | Sequence[int] | Prompt
Samplings = Sampling | Sequence[Sampling]
"""One for all prompts, or one for each."""
AS_THE_CHECKPOINT_SAYS = Sampling()


def listed(name: str, values: Any) -> Sequence[Any]:
    """Returns a list of prompts. Raises ValueError for a single text, a set, a mapping, an iterator and the like."""
    if isinstance(values, str):
        raise ValueError(f"{name} = {shown(values)} is a single text; expected a list: [{shown(values)}]")
    ordered = isinstance(values, Iterable) and isinstance(values, Sized)
    if not ordered or isinstance(values, bytes | bytearray | Mapping | Set):
        raise refused(name, values, "a list of texts or of lists of token ids")
    return list(values)


def token_ids(name: str, prompt: Any) -> list[int]:
    """Returns a prompt of token ids as a list. Raises ValueError for anything but whole numbers from 0 on."""
    return packed_ids(name, prompt).tolist()


def packed_ids(name: str, prompt: Any) -> array[int]:
    """`token_ids` as int64. Prompts are long, so that no line of Python runs for each token of a list of numbers."""
    try:
        tokens = list(items_of(prompt))
        if list(map(type, tokens)).count(int) < len(tokens):  # a truth value is no number
            tokens = [as_whole(token) for token in tokens]
        ids = array("q", tokens)
        if ids and np.frombuffer(ids, np.int64).min() < 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise refused(name, prompt, "a text, or a list of token ids (whole numbers from 0 on)") from None
    return ids


def one_sampling(sampling: Any) -> Sampling:
    """Returns the sampling of one prompt; None: as the checkpoint says. Raises ValueError for another type."""
    if sampling is None:
        return AS_THE_CHECKPOINT_SAYS
    if not isinstance(sampling, Sampling):
        raise refused("sampling", sampling, "Sampling(...), or None")
    return sampling


def samplings_of(sampling: Any, count: int) -> Sequence[Sampling]:
    """Returns one sampling for each of `count` prompts. Raises ValueError for another type or number of them."""
    if sampling is None or isinstance(sampling, Sampling):
        return [one_sampling(sampling)] * count
    if not isinstance(sampling, Sequence) or not all(isinstance(one, Sampling) for one in sampling):
        raise refused("sampling", sampling, "Sampling(...), or a list of one for each prompt, or None")
    if len(sampling) != count:
        raise ValueError(f"{len(sampling)} samplings for {count} prompts; expected one, or one for each")
    return sampling
