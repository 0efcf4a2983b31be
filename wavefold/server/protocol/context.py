"""What a protocol knows of the model that is served: names, vocabulary, window, how chats are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wavefold.chat import Tokenizer
from wavefold.chat.encoding import turn_ids
from wavefold.chat.special_tokens import ASSISTANT, USER
from wavefold.engine import Sampling
from wavefold.server.protocol.errors import Refused, no_such_model
from wavefold.server.protocol.loosened import Loosened
from wavefold.server.protocol.profiles import Profile, profile_of
from wavefold.server.protocol.replay import Replay
from wavefold.server.recipe import Vocabulary


def _anything(sampling: Sampling) -> None:
    """Checks nothing: what cannot be held is refused when the engine is asked."""


@dataclass(frozen=True)
class Context:
    """`names`: the model's, the first is shown. `window`: tokens of prompt and answer together, at most.

    `profile`: None: chats are refused. `thinks`: answers reason unless a request says otherwise. `check` compiles what
    a sampling demands of an answer; it raises ValueError for what cannot be held.
    """

    names: tuple[str, ...]
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    window: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    profile: Profile | None
    thinks: bool
    replay: Replay
    check: Callable[[Sampling], None] = _anything
    loosened: Loosened = field(default_factory=Loosened)

    @property
    def turn_ids(self) -> tuple[int, ...]:
        """The markers that end an answer beside EOS, since a next turn begins."""
        has_turns = self.tokenizer.has(USER) and self.tokenizer.has(ASSISTANT)
        return turn_ids(self.tokenizer) if has_turns else ()

    @property
    def chats(self) -> Profile:
        """The profile. Raises `Refused` for a checkpoint without one."""
        if self.profile is None:
            raise Refused(
                400, "this model has neither V4's markers nor a chat template; ask /v1/completions", "no_chat", "model"
            )
        return self.profile

    def check_name(self, model: str) -> None:
        """Raises `Refused`, 404, for a model that is not served."""
        if model not in self.names:
            raise no_such_model(model, self.names)


def context_of(
    names: tuple[str, ...],
    folder: Path,
    tokenizer: Tokenizer,
    window: int,
    vocab_size: int,
    eos_ids: tuple[int, ...],
    profile: str | None = None,
    thinking: bool | None = None,
    check: Callable[[Sampling], None] = _anything,
) -> Context:
    """Returns the context of the checkpoint in `folder`. `thinking`: None: as its profile says.

    Raises ValueError where deepseek-recipe is not installed, and for a profile that the tokenizer cannot write.
    """
    found = profile_of(folder, tokenizer, profile)
    thinks = (found is not None and found.thinks) if thinking is None else thinking
    return Context(
        tuple(names), tokenizer, Vocabulary(tokenizer.json_text), window, vocab_size, tuple(eos_ids), found, thinks,
        Replay(tokenizer), check,
    )  # fmt: skip
