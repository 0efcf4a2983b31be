"""Turns of a chat: a typed line is a message or a command, an answer is shown as it comes, and all of it is kept."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace

from wavefold.cache import PoolFull
from wavefold.chat.special_tokens import THINK
from wavefold.cli.chat_commands import run_command
from wavefold.cli.conversation import Conversation
from wavefold.cli.session import Session
from wavefold.cli.terminal import printable

MOST_TOKENS = 2048
"""Of an answer, where neither the user nor checkpoint or adapter says."""


class ChatLoop:
    """A session's chat. `most_tokens`: of an answer, unless the user says."""

    def __init__(self, session: Session):
        assert session.conversation is not None
        self.session: Session = session
        self.conversation: Conversation = session.conversation
        config = session.llm.model.config
        self.most_tokens = session.llm.requests.defaults_through(session.adapter).max_new_tokens or MOST_TOKENS
        self._window = config.max_position_embeddings
        self._num_retries = 0

    def greet(self) -> None:
        print(f"{self.session.llm.folder}: answers what you type. /help lists commands; Ctrl-C stops an answer, Ctrl-D "
              "ends.", file=sys.stderr)  # fmt: skip

    def run(self, lines: Iterable[str]) -> None:
        """Does what the lines say, until they end or one of them ends the chat. What goes wrong is said; it goes on."""
        for line in lines:
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if not run_command(self, line):
                        return
                elif line:
                    self.say(line[1:] if line.startswith("//") else line)
            except (ValueError, PoolFull) as error:
                print(f"wavefold: {printable(str(error))}", file=sys.stderr)

    def say(self, text: str, again: bool = False) -> bool:
        """Answers a message and keeps both, unless nothing came before the answer was stopped: then it is False.

        `again`: with another seed than before. Raises ValueError for a message that does not fit the window.
        """
        self._num_retries = self._num_retries + 1 if again else 0
        prompt, sampling = self.conversation.prompt(text), self.session.sampling
        if sampling.max_tokens is None:  # as many as fit
            room = max(1, self._window - len(prompt.ids))
            sampling = replace(sampling, max_tokens=min(self.most_tokens, room))
        sampling = replace(sampling, seed=sampling.seed + self._num_retries)
        completion = self.session.answer(prompt, True, sampling)
        is_kept = bool(completion.tokens) or completion.finish_reason != "interrupted"
        if is_kept:
            self.conversation.keep(text, completion.tokens)
            if completion.finish_reason != "interrupted":
                self._tell_if_empty()
        else:
            print("wavefold: stopped before the first word; the message is forgotten", file=sys.stderr)
        return is_kept

    def _tell_if_empty(self) -> None:
        """An answer that shows nothing looks like a fault."""
        if not self.session.tokenizer.decode(self.conversation.turns[-1].answer).strip():
            beside = " beside its reasoning" if self.conversation.thinks else ""
            print(f"wavefold: the answer is empty{beside}; /retry draws another one", file=sys.stderr)

    def set_thinking(self, thinks: bool) -> None:
        """Raises ValueError for a tokenizer that lacks the marker."""
        if thinks and not self.session.tokenizer.has(THINK):
            raise ValueError(f"thinking needs the token {THINK!r}, which the model's tokenizer lacks")
        self.conversation.thinks = thinks
