"""A chat's turns so far, and the prompt that a next message makes of them, in DeepSeek-V4's chat encoding.

    BOS system <｜User｜> message <｜Assistant｜> </think> answer EOS <｜User｜> message <｜Assistant｜> </think>

An answer is there as the tokens that the model chose, not as its text encoded again: so each prompt begins with all
that the prefix cache holds of the turn before. With thinking the last marker is <think>; reasoning of earlier turns is
left out, as in V4's encoding without tools.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wavefold.chat import Prompt, Tokenizer
from wavefold.chat.encoding import encode_chat
from wavefold.chat.special_tokens import ASSISTANT, BOS, END_THINK, EOS, THINK, USER
from wavefold.system.reasons import reason_of

MARKERS = (BOS, USER, ASSISTANT, END_THINK, EOS)


class Turn(NamedTuple):
    """A user's message, and the ids of the answer to it, without reasoning and without EOS."""

    text: str
    answer: list[int]


class Conversation:
    """Turns after a system text, where there is one. `thinks`: the next answer begins with reasoning."""

    def __init__(self, tokenizer: Tokenizer, system: str | None = None, thinks: bool = False):
        """Raises ValueError for a tokenizer without the markers of V4's chats."""
        if lacking := tokenizer.lacking((*MARKERS, *((THINK,) if thinks else ()))):
            raise ValueError(f"a chat needs the token {lacking!r}, which the model's tokenizer lacks; complete texts "
                             "with `wavefold run`")  # fmt: skip
        self.system, self.thinks = system, thinks
        self.turns: list[Turn] = []
        self._tokenizer = tokenizer

    def prompt(self, text: str) -> Prompt:
        """The chat with a user's message `text`, up to the beginning of the answer. No token is taken back."""
        ids = self._ids(BOS) + self._tokenizer.encode(self.system or "")
        for turn in self.turns:
            ids += self._asked(turn.text) + self._ids(END_THINK) + turn.answer + self._ids(EOS)
        return Prompt(ids + self._asked(text) + self._ids(THINK if self.thinks else END_THINK))

    def keep(self, text: str, tokens: Sequence[int]) -> None:
        """Remember a message and the tokens of the answer to it. Reasoning that did not end has no answer behind it."""
        answer, end = list(tokens), self._ids(END_THINK)[0]
        if self.thinks:
            answer = answer[answer.index(end) + 1 :] if end in answer else []
        self.turns.append(Turn(text, answer))

    def undo(self) -> Turn:
        """Forgets the last message and its answer, and returns them. Raises ValueError where there are none."""
        if not self.turns:
            raise ValueError("nothing was said yet; type a message")
        return self.turns.pop()

    def messages(self) -> list[dict[str, str]]:
        """The chat as messages of role and content."""
        found = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in self.turns:
            found.append({"role": "user", "content": turn.text})
            found.append({"role": "assistant", "content": self._tokenizer.decode(turn.answer)})
        return found

    def load(self, path: Path) -> None:
        """The chat becomes that of a file that `/save` wrote. Raises ValueError, and changes nothing, for another."""
        try:
            messages = json.loads(path.read_text(encoding="utf-8"))["messages"]
            encode_chat(self._tokenizer, messages)  # roles and contents
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: cannot be used ({reason_of(error)}); expected a chat that /save wrote") from None
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
        if [message["role"] for message in messages] != ["user", "assistant"] * (len(messages) // 2):
            raise ValueError(f"{path}: expected messages of user and assistant in turn, after a system text if any")
        contents = [message["content"] for message in messages]
        pairs = zip(contents[::2], contents[1::2], strict=True)
        self.system, self.turns = system, [Turn(text, self._tokenizer.encode(answer)) for text, answer in pairs]

    def _asked(self, text: str) -> list[int]:
        return self._ids(USER) + self._tokenizer.encode(text) + self._ids(ASSISTANT)

    def _ids(self, marker: str) -> list[int]:
        return [self._tokenizer.token_id(marker)]
