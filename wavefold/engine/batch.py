"""Runs requests together to their ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from wavefold.engine.completion import Completion
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of, num_read
from wavefold.engine.runner import Runner
from wavefold.engine.sampling import Sampling

Progress = Callable[[int, int], None]
"""Is told what is done, and of how much."""


def nothing(done: int, of: int) -> None:
    """Shows no progress."""


def run_all(
    runner: Runner, requests: Sequence[Request], on_progress: Progress = nothing, on_prefill: Progress = nothing
) -> list[Completion]:  # fmt: skip
    """Adds all requests and runs them to their ends: `add_all`, then `run_added`."""
    add_all(runner, requests)
    return run_added(runner, requests, on_progress, on_prefill)


def add_all(runner: Runner, requests: Sequence[Request]) -> None:
    """Adds all requests, or none. Raises ValueError for one that cannot be run."""
    added: list[Request] = []
    try:
        for request in requests:
            runner.add(request)
            added.append(request)
    except BaseException:
        abort_all(runner, added)
        raise


def abort_all(runner: Runner, requests: Sequence[Request]) -> None:
    for request in requests:
        runner.abort(request.id)


def run_added(
    runner: Runner, requests: Sequence[Request], on_progress: Progress = nothing, on_prefill: Progress = nothing
) -> list[Completion]:  # fmt: skip
    """Runs the engine until requests have ended. Returns their answers, in order. Whatever is raised, none is left.

    `on_progress` counts answers that have ended, `on_prefill` tokens of all prompts that have been read.
    """
    answers = [answer_of(request) for request in requests]
    num_prompt = sum(len(request.prompt) for request in requests)
    left, read = -1, -1
    try:
        while left:
            if (read_now := max(read, sum(map(num_read, requests)))) != read:
                on_prefill(read_now, num_prompt)
                read = read_now
            now = sum(answer.finish_reason is None for answer in answers)
            if now != left:
                on_progress(len(requests) - now, len(requests))
                left = now
            if left:
                runner.step(unless=lambda: all(answer.finish_reason for answer in answers))
    finally:
        abort_all(runner, requests)
    return [answer.completion for answer in answers]


Prompted = TypeVar("Prompted")


def answers_of_each(
    width: int, jobs: Iterable[tuple[int, Prompted, Sampling]],
    requests_of: Callable[[Prompted, Sampling], list[Request]], added: Callable[[Sequence[Request]], Runner],
    has_place: Callable[[Request], bool],
) -> Iterator[tuple[int, list[Completion] | ValueError]]:  # fmt: skip
    """`LLM.each`. `requests_of` makes the requests of a job, `added` gives them to the runner.

    A job without a place waits until nothing runs, and all others behind it: then the pool grows.
    """
    left, running = iter(jobs), dict[int, list[Request]]()
    waiting: tuple[int, list[Request]] | None = None
    runner: Runner | None = None
    is_more = True
    try:
        while running or is_more or waiting:
            while (is_more or waiting) and sum(map(len, running.values())) < width:
                if waiting is None:
                    if (job := next(left, None)) is None:
                        is_more = False
                        break
                    number, prompt, sampling = job
                    try:
                        waiting = number, requests_of(prompt, sampling)
                    except ValueError as error:
                        yield number, error
                        continue
                number, requests = waiting
                if running and not all(map(has_place, requests)):
                    break
                waiting = None
                try:
                    runner = added(requests)
                except ValueError as error:
                    yield number, error
                else:
                    running[number] = requests
            if runner is not None and running:
                runner.step()
            for number in [number for number, requests in running.items() if all(map(has_ended, requests))]:
                yield number, [answer_of(request).completion for request in running.pop(number)]
    finally:
        if runner is not None:
            abort_all(runner, [request for requests in running.values() for request in requests])


def has_ended(request: Request) -> bool:
    return answer_of(request).finish_reason is not None
