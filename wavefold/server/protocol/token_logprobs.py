"""Log probabilities as `/v1/completions` shows them: four lists, one entry for each token."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from wavefold.chat import Tokenizer
from wavefold.engine.logprobs import TokenLogprob


class Entries:
    """The tokens of one text, the prompt's first where it is echoed.

    `offset`: characters of the text before the answer. A token that is no whole character is written as OpenAI does:
    `bytes:\\xe2\\x80`. Tokens that share characters have the offset of the first of these.
    """

    def __init__(self, tokenizer: Tokenizer, offset: int):
        self._tokenizer = tokenizer
        self._rows: list[tuple[str, float | None, dict[str, float] | None, int]] = []
        self._begin(offset)

    @property
    def count(self) -> int:
        return len(self._rows)

    def add(self, token: int, entry: TokenLogprob | None) -> None:
        """Adds the next token; `entry`: None where its log probability is not known."""
        text = b"" if self._tokenizer.is_hidden(token) else self._tokenizer.token_bytes(token)
        offset = self._length + self._ends_a_character(text)
        best = None if entry is None else {self._text(other): value for other, value in reversed(entry.best)}
        self._rows.append((self._text(token), None if entry is None else entry.logprob, best, offset))
        self._length += len(self._utf8.decode(text))

    def put_prompt(self, ids: Sequence[int], entries: Sequence[TokenLogprob | None]) -> None:
        """Puts the tokens of an echoed prompt before all others. None is added after it."""
        answer, self._rows = self._rows, []
        self._begin(0)
        for token, entry in zip(ids, entries, strict=True):
            self.add(token, entry)
        self._rows += answer

    def value(self, first: int, characters: int | None = None) -> dict[str, Any]:
        """The four lists from token `first` on, up to so many characters of the text."""
        rows = [row for row in self._rows[first:] if characters is None or row[3] < characters]
        return {
            "tokens": [row[0] for row in rows], "token_logprobs": [row[1] for row in rows],
            "top_logprobs": [row[2] for row in rows], "text_offset": [row[3] for row in rows],
        }  # fmt: skip

    def _begin(self, offset: int) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")  # as a text is decoded
        self._length = offset
        """Characters before the next token, without one that its bytes may complete."""

    def _ends_a_character(self, text: bytes) -> bool:
        """True if bytes that wait for the rest of a character get none from `text`: they are U+FFFD before it."""
        waiting, _ = self._utf8.getstate()
        try:
            codecs.utf_8_decode(waiting + text[:1], "strict", False)
        except UnicodeDecodeError:
            return bool(waiting)
        return False

    def _text(self, token: int) -> str:
        text = self._tokenizer.token_bytes(token)
        try:
            return text.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in text)
