"""Runs requests together to their ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wavefold.engine.completion import Completion
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.engine.runner import Runner


def run_all(
    runner: Runner, requests: Sequence[Request], on_progress: Callable[[int, int], None] = lambda done, of: None
) -> list[Completion]:  # fmt: skip
    """Adds all requests, and runs the engine until they have ended. Returns their answers, in order.

    Raises ValueError, before anything runs, for a request that cannot be run. Whatever is raised, none is left.
    """
    added: list[Request] = []
    answers = [answer_of(request) for request in requests]
    try:
        for request in requests:
            runner.add(request)
            added.append(request)
        left = -1
        while left:
            now = sum(answer.finish_reason is None for answer in answers)
            if now != left:
                on_progress(len(requests) - now, len(requests))
                left = now
            if left:
                runner.step(unless=lambda: all(answer.finish_reason for answer in answers))
    finally:
        for request in added:
            runner.abort(request.id)
    return [answer.completion for answer in answers]
