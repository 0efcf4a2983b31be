"""Reasoning and answer told apart in a stream of text, by <think> and </think>, which may be cut anywhere."""

from __future__ import annotations

from wavefold.chat.special_tokens import END_THINK, THINK


class ThinkingParts:
    """Takes pieces of text; gives (True for reasoning, text) for each part, without the markers."""

    def __init__(self, thinks: bool):
        """`thinks`: the text begins within reasoning."""
        self.thinks = thinks
        self._rest = ""

    def push(self, piece: str) -> list[tuple[bool, str]]:
        """The parts that are certain: the beginning of a marker may be held back."""
        text, parts = self._rest + piece, []
        while (at := text.find(marker := END_THINK if self.thinks else THINK)) >= 0:
            parts.append((self.thinks, text[:at]))
            self.thinks, text = not self.thinks, text[at + len(marker) :]
        num_held = next((count for count in range(len(marker) - 1, 0, -1) if text.endswith(marker[:count])), 0)
        self._rest = text[len(text) - num_held :]
        parts.append((self.thinks, text[: len(text) - num_held]))
        return [(thinks, part) for thinks, part in parts if part]

    def finish(self) -> list[tuple[bool, str]]:
        """What was held back and became no marker."""
        rest, self._rest = self._rest, ""
        return [(self.thinks, rest)] if rest else []
