"""How the models of a pool are opened: by the server's flags, and what `pool.toml` says of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wavefold.cache import BLOCK_TOKENS
from wavefold.engine.budget import Needs, Share, needs_of
from wavefold.engine.prefixes import SNAPSHOT_EVERY
from wavefold.engine.scheduler import blocks_of
from wavefold.llm import LLM
from wavefold.ops import Arithmetic
from wavefold.pool.folder import Entry
from wavefold.pool.settings import ModelSettings
from wavefold.server.contexts import context_for
from wavefold.server.model import Model

CACHE_TOKENS = 32_768
"""Of all answers of a model together, unless somebody says otherwise."""


@dataclass
class Opening:
    """What the flags say. `settings`: arguments of `LLM` for every model, without memory, width and cache."""

    arithmetic: str
    width: int
    cache_tokens: int | None = None
    draft_depth: int = 0
    profile: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    _needs: dict[tuple[Entry, int, int], Needs] = field(default_factory=dict)

    def needs(self, entry: Entry, settings: ModelSettings) -> Needs:
        """Returns the bytes that a model needs. Raises ValueError for what cannot be used."""
        tokens, width = self._tokens(settings), settings.width or self.width
        key = entry, tokens, width
        if key not in self._needs:
            every = self.settings.get("snapshot_every", SNAPSHOT_EVERY)
            on_disk = self.settings.get("cache_dir") is not None
            self._needs[key] = needs_of(entry.path, Arithmetic(self.arithmetic), tokens, width, every, on_disk)
        return self._needs[key]

    def open(self, entry: Entry, settings: ModelSettings, num_bytes: int) -> Model:
        """Loads a model with so many bytes. Raises ValueError."""
        depth = self.draft_depth if settings.draft_depth is None else settings.draft_depth
        llm = LLM(
            entry.path, self.arithmetic, memory=Share(num_bytes), width=settings.width or self.width,
            cache_tokens=self._tokens(settings), draft_depth=depth, **self.settings,
        )  # fmt: skip
        try:
            return Model(llm, context_for(llm, (entry.name,), settings.profile or self.profile))
        except BaseException:
            llm.close()
            raise

    def _tokens(self, settings: ModelSettings) -> int:
        return BLOCK_TOKENS * blocks_of(settings.cache_tokens or self.cache_tokens or CACHE_TOKENS)
