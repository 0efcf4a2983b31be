"""Prefill and decode at growing contexts, in one sequence: rates, cache bytes beside the plan's, peak memory.

prompt to 4K -> fork, decode, close -> prompt on to 16K -> fork, decode, close -> ...
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wavefold.bench.pools import planned_bytes
from wavefold.checkpoint.load import assign
from wavefold.config import ModelConfig
from wavefold.model import Transformer
from wavefold.model.official import official_names, official_tensors
from wavefold.model.transformer import PASS_TOKENS
from wavefold.system import peak_rss_bytes

MOST_DENSE = 1 << 16


@dataclass(frozen=True)
class ContextRow:
    """One context: `prefill_s` from the first token to the last, `decode_s` the median of a token after them."""

    context: int
    prefill_s: float
    decode_s: float
    cache_bytes: int
    planned_bytes: int
    peak_rss_bytes: int


def measure_contexts(
    model: Transformer,
    tokens: torch.Tensor,
    contexts: Sequence[int],
    decode_tokens: int,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> list[ContextRow]:
    """Rows for ascending `contexts`, over the first of `tokens` [n]; `report(done, of)` as the prompt is read.

    Raises ValueError, before anything is allocated, for contexts that the model or the text has not.
    """
    check_contexts(model.config, len(tokens), contexts, decode_tokens)
    last = contexts[-1]
    pool = model.new_pool(last + decode_tokens + 128)  # a fork copies its last block
    sequence = pool.open()
    arithmetic = model.arithmetic
    records = "packed" if arithmetic.released else str(arithmetic.dtype).removeprefix("torch.")
    rows, prefill_s = [], 0.0
    for context in contexts:
        began = time.perf_counter()
        while sequence.num_tokens < context:
            part = tokens[sequence.num_tokens : min(sequence.num_tokens + PASS_TOKENS, context)]
            hidden = model.extend(part, [sequence], [len(part)])
            report(sequence.num_tokens, last)
        prefill_s += time.perf_counter() - began
        cache_bytes = sequence.cache_bytes
        fork = sequence.fork()
        seconds = []
        for _ in range(decode_tokens):
            token = model.logits(hidden[-1:]).argmax(-1)
            began = time.perf_counter()
            hidden = model.extend(token, [fork], [1])
            seconds.append(time.perf_counter() - began)
        fork.close()
        planned = planned_bytes(model.config, context, records)
        rows.append(ContextRow(context, prefill_s, statistics.median(seconds), cache_bytes, planned, peak_rss_bytes()))
    sequence.close()
    return rows


def dense_model(model: Transformer, num_tokens: int) -> Transformer:
    """The same weights with dense attention over at most `num_tokens` tokens: a window that long, and no entries.

    Raises ValueError for more than 65,536: the window is a ring that the kernels lay out whole.
    """
    if num_tokens > MOST_DENSE:
        raise ValueError(f"dense attention over {num_tokens:,} tokens is not allowed; expected at most {MOST_DENSE:,}")
    dense = Transformer(model.config.without_entries(num_tokens), model.arithmetic)
    kept = set(official_names(dense))
    assign(dense, {name: tensor for name, tensor in official_tensors(model) if name in kept})
    return dense


def check_contexts(config: ModelConfig, num_tokens: int, contexts: Sequence[int], decode_tokens: int) -> None:
    """Raises ValueError for contexts that the model or the text has not."""
    if decode_tokens < 1:
        raise ValueError(f"{decode_tokens} decoded tokens are not allowed; expected 1 or more")
    if not contexts or list(contexts) != sorted(set(contexts)) or contexts[0] < 1:
        raise ValueError(f"contexts {list(contexts)} are not allowed; expected positive lengths in ascending order")
    longest = contexts[-1]
    if longest + decode_tokens > config.max_position_embeddings:
        raise ValueError(
            f"a context of {longest:,} and {decode_tokens} decoded tokens are not allowed; the model goes to "
            f"{config.max_position_embeddings:,}"
        )
    if longest > num_tokens:
        raise ValueError(f"a context of {longest:,} tokens needs a longer text; this one has {num_tokens:,}")
