"""Exercises from documents: for each function that allows it one, of a kind that the seed chooses."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from wavefold.data.corpus import Document
from wavefold.data.exercises.errors import mend
from wavefold.data.exercises.exercise import Exercise
from wavefold.data.exercises.functions import Function, functions
from wavefold.data.exercises.rewrites import rewrite

MAKERS: dict[str, Callable[[Function, random.Random], Exercise | None]] = {"rewrite": rewrite, "error": mend}


def exercises(documents: Sequence[Document], seed: int, num: int | None = None) -> list[Exercise]:
    """Returns exercises in random order, at most `num`. The same documents, seed and Python give the same ones.

    An exercise depends only on the seed and on its function. Half of the functions are rewritten, half get a fault.
    With `num` the first functions in a random order count. Raises ValueError if no function allows an exercise.
    """
    order = list(functions(documents))
    random.Random(seed).shuffle(order)
    found: dict[str, Exercise] = {}
    for function in order:
        if num is not None and len(found) >= num:
            break
        dice = random.Random(f"{seed} {function.place}")
        exercise = MAKERS[dice.choice(sorted(MAKERS))](function, dice)
        if exercise is not None:
            found.setdefault(exercise.question, exercise)
    if not found:
        raise ValueError(f"{len(documents)} documents hold no function that can be asked about")
    return list(found.values())
