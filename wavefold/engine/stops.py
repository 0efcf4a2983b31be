"""Texts that end an answer: they are looked for in its pieces as these come, and are never shown in part."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Passes text on until one of `stops` is complete. The first one that is complete ends it, whatever the pieces.

    The end of the text is held back as long as it may become a stop.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held_back = ""
        self.found = False
        self.num_shown = 0
        """Characters that were passed on."""

    def push(self, piece: str) -> str:
        """Returns what is sure of the text so far and was not returned before."""
        text = self._held_back + piece
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self.found = True
            return self._show(text, min(ends)[1])
        longest = min(len(text), self._longest - 1)
        held_back = next((n for n in range(longest, 0, -1) if self._may_become_one(text[-n:])), 0)
        return self._show(text, len(text) - held_back)

    def finish(self) -> str:
        """Returns what was held back: the text has ended without a stop."""
        return "" if self.found else self._show(self._held_back, len(self._held_back))

    def _may_become_one(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stops)

    def _show(self, text: str, length: int) -> str:
        self._held_back = text[length:]
        self.num_shown += length
        return text[:length]
