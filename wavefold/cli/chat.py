"""A chat in `wavefold run --chat`: the messages so far, and the prompt that the next one makes of them."""

from __future__ import annotations

from wavefold.chat import Prompt, Tokenizer
from wavefold.chat.encoding import chat_ids
from wavefold.chat.special_tokens import ASSISTANT, BOS, END_THINK, EOS, USER

MARKERS = (BOS, USER, ASSISTANT, END_THINK, EOS)


class Chat:
    """Messages of a user and answers, after a system text where one is given."""

    def __init__(self, tokenizer: Tokenizer, system: str | None = None):
        """Raises ValueError for a tokenizer without the markers of V4's chats."""
        for marker in MARKERS:
            if not tokenizer.has(marker):
                raise ValueError(f"--chat needs the token {marker!r}, which the model's tokenizer lacks; "
                                 "complete texts without --chat")  # fmt: skip
        self._tokenizer = tokenizer
        self._messages = [] if system is None else [{"role": "system", "content": system}]

    def prompt(self, text: str) -> Prompt:
        """The chat with a user's message `text`, up to the beginning of the answer. No token is taken back."""
        messages = [*self._messages, {"role": "user", "content": text}]
        return Prompt(chat_ids(self._tokenizer, messages))

    def keep(self, text: str, answer: str) -> None:
        """Remember a message and the answer to it."""
        self._messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
