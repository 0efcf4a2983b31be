"""What an answer has cost so far: tokens, the model's time, the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

SHORT = 128
"""Tokens of a prompt about which nobody wonders."""


@dataclass(frozen=True)
class Usage:
    """The cost of an answer so far.

    `prefill_s` is the time of the passes until the first token is known. `decode_s` is that of the passes for the
    `decode_tokens` after it. A pass counts in full for each of its requests; the caller's time between passes counts
    for none. `cache_bytes` is the size of the sequence's cache after its last pass. `completion_tokens` are the
    answer's tokens, without one that ended it.

    Of the prompt, `cached_tokens` were in the prefix cache and `disk_tokens` were read from the disk; the others were
    computed. `left_chain_at`: where the prompt left the nearest text that is cached; a text that is known up to a place
    where no state is near has to be computed from the state before it on. All three are of the first time that the
    prompt was read.
    """

    prompt_tokens: int
    prefill_s: float = 0.0
    decode_tokens: int = 0
    decode_s: float = 0.0
    cache_bytes: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    disk_tokens: int = 0
    left_chain_at: int = 0

    def after(self, num_chosen: int, num_new: int, seconds: float, cache_bytes: int) -> Usage:
        """Returns the usage after a pass that chose `num_new` tokens, after `num_chosen` before it."""
        if num_chosen == 0:
            return replace(self, prefill_s=self.prefill_s + seconds, cache_bytes=cache_bytes)
        return replace(
            self, decode_tokens=num_chosen + num_new - 1, decode_s=self.decode_s + seconds, cache_bytes=cache_bytes
        )

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """The rate at which the prompt's computed tokens were read; None before they were."""
        return self.computed_tokens / self.prefill_s if self.prefill_s else None

    @property
    def computed_tokens(self) -> int:
        """Tokens of the prompt that were in no cache."""
        return self.prompt_tokens - self.cached_tokens - self.disk_tokens

    @property
    def prefix_line(self) -> str:
        """What of the prompt was cached, and where it left the cached text.

        Empty where nothing was but BOS, and for a short prompt of which nothing was.
        """
        if self.left_chain_at <= 1 or (self.prompt_tokens < SHORT and self.computed_tokens == self.prompt_tokens):
            return ""
        return (
            f"{self.cached_tokens:,} in memory, {self.disk_tokens:,} on disk, {self.computed_tokens:,} computed, "
            f"known up to {self.left_chain_at:,}"
        )

    @property
    def decode_tokens_per_s(self) -> float | None:
        """The rate of the tokens after the first one; None where no pass has chosen any."""
        return self.decode_tokens / self.decode_s if self.decode_tokens and self.decode_s else None
