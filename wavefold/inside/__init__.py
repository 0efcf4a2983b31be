"""Look inside: what a model saw when it made a token. `look` gives a record, `inside_answer` gives it as JSON."""

from wavefold.inside.answer import inside_answer, values_of
from wavefold.inside.read import look, look_at
from wavefold.inside.record import EntriesSeen, Guess, LayerSeen, Seen, tokens_of
from wavefold.inside.request import Asked, asked

__all__ = [
    "Asked", "EntriesSeen", "Guess", "LayerSeen", "Seen", "asked", "inside_answer", "look", "look_at", "tokens_of",
    "values_of",
]  # fmt: skip
