"""What the protocols know of an open model."""

from __future__ import annotations

from wavefold.cache import BLOCK_TOKENS
from wavefold.engine import Sampling
from wavefold.llm import LLM
from wavefold.server.protocol import Context, context_of


def context_for(llm: LLM, names: tuple[str, ...], profile: str | None = None) -> Context:
    """Returns what the protocols know of a model. Its window is the pool's, where that is the smaller."""
    config, requests = llm.model.config, llm.requests
    window = min(config.max_position_embeddings, llm.runner.num_blocks * BLOCK_TOKENS + 1)
    eos_ids = requests.resolved(Sampling()).eos_ids
    return context_of(names, llm.folder, requests.needs_tokenizer(), window, config.vocab_size, eos_ids, profile,
                      check=requests.check)  # fmt: skip
