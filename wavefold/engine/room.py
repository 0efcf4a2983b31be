"""Memory that an answer needs beside the mapped weights: the cache, and the activations of one pass."""

from __future__ import annotations

from wavefold.model import Transformer
from wavefold.model.transformer import PASS_TOKENS
from wavefold.system import check_memory

LIVE = 10
"""Rows of streams and of queries that a pass holds at once for each of its tokens.

Resident memory that a prompt added with the nano preset, cache included: 27 MB at 1,024 tokens in released arithmetic
and 76 MB in float32 (by this formula 42 and 84); 34 MB at 8,192 tokens.
"""


def pass_bytes(model: Transformer, num_tokens: int) -> int:
    """Bytes of the activations of a pass of `num_tokens` tokens, and of a row of logits."""
    config, width = model.config, model.arithmetic.dtype.itemsize
    row = config.hc_mult * config.hidden_size + config.num_attention_heads * config.head_dim
    return LIVE * min(num_tokens, PASS_TOKENS) * row * width + 4 * config.vocab_size


def check_answer(model: Transformer, prompt_tokens: int, num_tokens: int) -> None:
    """Raises ValueError where a prompt of `prompt_tokens` and a cache for `num_tokens` do not fit in memory."""
    if model.device.type != "cpu":
        return
    cache = model.cache_bytes(num_tokens)
    check_memory(
        cache + pass_bytes(model, prompt_tokens), f"an answer with {num_tokens:,} tokens in its cache",
        f"a shorter prompt or answer (a token more takes {cache // num_tokens:,} bytes)",
    )  # fmt: skip
