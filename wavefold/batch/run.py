"""The lines of a batch through a model: many at a time, each replaced by the next as soon as it has ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wavefold.batch.lines import Job, job_of
from wavefold.batch.results import Results
from wavefold.llm import LLM

Shown = Callable[[int, int, int], None]
"""Is told how many lines are done, of how many, and how many new tokens this run has made."""


def read_jobs(path: Path) -> list[Job]:
    """Returns the jobs of a file of lines; blank lines are none.

    Raises ValueError for two lines with one key, and for a file that is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold other line ends
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}; expected UTF-8") from None
    jobs = [job_of(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    seen: dict[str, int] = {}
    for job in jobs:
        if (first := seen.setdefault(job.key, job.number)) != job.number:
            raise ValueError(f"{path}: lines {first} and {job.number} are both {job.key!r}; expected one of each")
    return jobs


class Shard(NamedTuple):
    """Part `number` of `num_shards`, from 1: every `num_shards`-th job, by the order of lines."""

    number: int
    num_shards: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Returns the shard of a text such as 2/3. Raises ValueError for another text, or an index out of range."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        number, num_shards = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= num_shards:
            raise ValueError(f"shard = {text!r} is not allowed; expected I/N with I from 1 to N, as 1/3, 2/3 and 3/3")
        return cls(number, num_shards)

    def of(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Returns this shard's jobs. Those of all shards are all jobs, each once."""
        return jobs[self.number - 1 :: self.num_shards]


def run_batch(llm: LLM, jobs: Sequence[Job], results: Results, show: Shown = lambda done, of, tokens: None) -> int:
    """Answers the jobs that have no result yet. Returns the number of results with an error.

    Raises OSError where results cannot be written; those before are kept.
    """
    left = [job for job in jobs if job.key not in results.done]
    name, num_errors, num_tokens = llm.folder.name, 0, 0
    by_number: dict[int, Job] = {}

    def asked() -> Iterator[tuple[int, object, object]]:
        nonlocal num_errors
        for job in left:
            if job.error:
                num_errors += 1
                results.append(job.key, job.result((), name))
                continue
            by_number[job.number] = job
            yield job.number, job.prompt, job.sampling

    show(len(results.done), len(jobs), 0)
    for number, answer in llm.each(asked()):  # type: ignore[arg-type]
        job = by_number.pop(number)
        if isinstance(answer, ValueError):
            result = Job(job.number, job.key, job.kind, error=f"line {number}: {answer}").result((), name)
            num_errors += 1
        else:
            result = job.result(answer, name)
            num_errors += any(completion.error for completion in answer)
            num_tokens += sum(completion.usage.completion_tokens for completion in answer)
        results.append(job.key, result)
        show(len(results.done), len(jobs), num_tokens)
    return num_errors
