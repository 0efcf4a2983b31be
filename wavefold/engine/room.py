"""Memory that answers need beside the mapped weights: the cache, and the activations of one pass."""

from __future__ import annotations

import torch

from wavefold import ops
from wavefold.cache import BLOCK_TOKENS
from wavefold.engine.request import Request
from wavefold.engine.scheduler import blocks_of
from wavefold.experts.streamed import StreamedExperts
from wavefold.model import Transformer
from wavefold.system import check_memory
from wavefold.system.memory import resident_limits, tightest
from wavefold.waves.agreement import num_ranks

DEFAULT_POOL_TOKENS = 65_536
"""Tokens of a pool that nobody asked for. Blocks that were never written take no memory on a CPU."""
SHARE = 0.5
"""Of the free memory, which such a pool may take."""

KEPT_SHARE = 0.125
"""Of the free memory, which the states of a prefix cache may take."""
ENDS = 32
"""Ends of prompts and answers that a prefix cache keeps beside the states along a text."""

TRIES = 4
"""Of giving memory back: the kernel keeps a page of 2 MiB while a part of it is in use."""

LIVE, LIVE_IN_KERNELS = 10, 2
"""Rows of streams and of queries that a pass holds at once for each of its tokens, in torch and in the CPU kernels.

Resident memory that a prompt added in float32 with the nano preset, cache included: 76 MB at 1,024 tokens (by this
formula 84). In the kernels with Flash's shapes: 15, 70, 122, 182, 308 and 600 MiB at 64, 256, 512, 1,024, 2,048 and
4,096 tokens (by this formula 12, 48, 96, 192, 384 and 768; the rest is within a budget's overhead).
"""


CPU = torch.device("cpu")


def pass_bytes(model: Transformer, num_tokens: int) -> int:
    """Bytes of the activations of a pass of `num_tokens` tokens on a CPU, and of a row of logits."""
    config, width = model.config, model.arithmetic.dtype.itemsize
    row = config.hc_mult * config.hidden_size + config.num_attention_heads * config.head_dim
    live = LIVE_IN_KERNELS if ops.kernels_run(model.arithmetic.dtype, CPU) else LIVE
    return live * num_tokens * row * width + 4 * config.vocab_size


def _check(model: Transformer, num_bytes: int, subject: str, advice: str) -> None:
    """`check_memory`, after streamed experts have given back what is missing."""
    store = model.experts.store
    if isinstance(store, StreamedExperts):
        for _ in range(TRIES):
            missing = num_bytes - min(limit.free for limit in resident_limits())
            if missing <= 0:
                break
            store.fit(store.resident_bytes - missing)
    check_memory(num_bytes, subject, advice)


def check_answer(model: Transformer, prompt_tokens: int, num_tokens: int) -> None:
    """Raises ValueError where a cache for `num_tokens` and a pass of `prompt_tokens` do not fit in memory."""
    if model.device.type != "cpu":
        return
    cache = model.cache_bytes(num_tokens)
    _check(
        model, cache + pass_bytes(model, prompt_tokens), f"an answer with {num_tokens:,} tokens in its cache",
        f"a shorter prompt or answer (a token more takes {cache // num_tokens:,} bytes)",
    )  # fmt: skip


def check_pool(model: Transformer, num_tokens: int, max_running: int, step_tokens: int) -> None:
    """Raises ValueError where a pool, the states of `max_running` sequences and a pass do not fit in memory."""
    if model.device.type != "cpu":
        return
    states = (max_running - 1) * model.cache_bytes(0)
    _check(
        model, model.cache_bytes(num_tokens) + states + pass_bytes(model, step_tokens),
        f"a pool of {num_tokens:,} tokens", "fewer of them (cache_tokens)",
    )  # fmt: skip


def kept_states(model: Transformer, num_tokens: int, snapshot_every: int, most_bytes: int | None = None) -> int:
    """Returns the states that a prefix cache beside a pool of `num_tokens` keeps: as many as suit, in `most_bytes`.

    None: in `KEPT_SHARE` of the memory that is free.
    """
    if most_bytes is None:
        most_bytes = int(KEPT_SHARE * max(0, tightest().free))
    return min(num_tokens // snapshot_every + ENDS, most_bytes // max(model.cache_bytes(0), 1))


def check_in_pool(request: Request, num_blocks: int, cache_tokens: int | None, num_open: int) -> None:
    """Raises ValueError for a request that is larger than a pool which cannot grow.

    The pool has `cache_tokens` that the caller asked for, or is in use by `num_open` other requests.
    """
    if (needed := blocks_of(request.peak_tokens)) <= num_blocks:
        return
    size = (
        f"{len(request.prompt):,} prompt tokens and max_tokens = {request.max_tokens} need {needed} blocks of "
        f"{BLOCK_TOKENS} tokens, and the pool has {num_blocks}"
    )
    more = f"LLM(cache_tokens={needed * BLOCK_TOKENS}) or more"
    if cache_tokens is not None:
        fewer = f"expected at most {num_blocks * BLOCK_TOKENS + 1} tokens together"
        raise ValueError(f"{size}, from cache_tokens = {cache_tokens}; {fewer}, or {more}")
    raise ValueError(
        f"{size}, which cannot grow while answers that run or open streams hold it ({num_open} now); expected that "
        f"they end or are closed before, or {more}"
    )


def check_scored(model: Transformer, num_rows: int) -> None:
    """Raises ValueError where the logits of `num_rows` tokens of a prompt do not fit in memory."""
    if model.device.type == "cpu":
        num_bytes = 4 * num_rows * model.config.vocab_size
        _check(model, num_bytes, f"the logits of {num_rows:,} tokens of a prompt", "a prompt without prompt_logprobs")


def pool_blocks(model: Transformer, largest: int, asked: int | None = None) -> int:
    """Returns the blocks of a pool for requests of at most `largest` tokens: `asked` tokens, or as many as suit.

    Over ranks every process needs the same number, so nothing depends on the memory of one.
    """
    if asked is not None:
        return blocks_of(asked)
    num_tokens = DEFAULT_POOL_TOKENS
    if model.device.type == "cpu" and num_ranks() == 1:
        block_bytes = model.cache_bytes(BLOCK_TOKENS) - model.cache_bytes(0)
        num_tokens = min(num_tokens, int(SHARE * max(0, tightest().free)) // max(block_bytes, 1) * BLOCK_TOKENS)
    return max(blocks_of(largest), num_tokens // BLOCK_TOKENS, 1)
