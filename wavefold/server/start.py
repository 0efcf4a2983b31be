"""The application of an open model: what its protocols know of it, and the limits on who asks."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp

from wavefold.cache import BLOCK_TOKENS
from wavefold.engine import Sampling
from wavefold.llm import LLM
from wavefold.server.app import Limits, new_app
from wavefold.server.keys import Keys
from wavefold.server.line import Writer
from wavefold.server.model import Model
from wavefold.server.models import OneModel
from wavefold.server.protocol import Context, context_of
from wavefold.server.served import Served


def app_of(
    llm: LLM, names: tuple[str, ...], profile: str | None, max_body: int, max_queue: int, host: str,
    hosts: Sequence[str] = (), keys: Keys | None = None, write: Writer | None = None,
) -> tuple[ASGIApp, Served]:  # fmt: skip
    """Returns the application, and what its parts share. Raises ValueError for a model that cannot be served."""
    limits = Limits(max_body, max_queue, host, tuple(hosts), keys or Keys())
    return new_app(OneModel(Model(llm, context_for(llm, names, profile))), limits, write)


def context_for(llm: LLM, names: tuple[str, ...], profile: str | None = None) -> Context:
    """Returns what the protocols know of a model. Its window is the pool's, where that is the smaller."""
    config, requests = llm.model.config, llm.requests
    window = min(config.max_position_embeddings, llm.runner.num_blocks * BLOCK_TOKENS + 1)
    eos_ids = requests.resolved(Sampling()).eos_ids
    return context_of(names, llm.folder, requests.needs_tokenizer(), window, config.vocab_size, eos_ids, profile,
                      check=requests.check)  # fmt: skip
