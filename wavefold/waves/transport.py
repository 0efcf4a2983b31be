"""Messages between ranks: posted ahead, waited for later.

    LocalTransport    logical ranks in one process, driven in turns by `run_together`: for tests and figures
    TorchTransport    torch.distributed, point to point (gloo; torchrun starts the processes)

What a rank does is a generator that yields each message that it has to wait for. A process of its own waits for real;
logical ranks take turns, and where none can go on, the schedule is wrong and says so.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar

import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


class Message(Protocol):
    """A posted send or receive."""

    def done(self) -> bool:
        """Whether its buffer may be used."""

    def wait(self) -> None:
        """Until it is done. Raises RankLost where its rank is gone."""


Program = Generator[Message, None, Result]
"""What a rank does; it yields what it waits for."""


class RankLost(RuntimeError):
    """Another rank died or was cut off."""


class Transport(ABC):
    """A rank's way to the others. Messages of one tag between two ranks arrive in the order in which they were sent."""

    rank: int
    size: int

    @abstractmethod
    def send(self, target: int, tensor: Tensor, tag: int = 0) -> Message:
        """Post a contiguous tensor; it must not change until the message is done."""

    @abstractmethod
    def receive(self, source: int, tensor: Tensor, tag: int = 0) -> Message:
        """Post room, contiguous, for a message of exactly this size."""


Posts = dict[tuple[int, int, int], deque[Tensor]]
"""What was sent and not yet received, by source, target and tag."""


class LocalTransport(Transport):
    """One of `size` logical ranks."""

    def __init__(self, rank: int, size: int, posts: Posts):
        self.rank, self.size, self._posts = rank, size, posts

    def send(self, target: int, tensor: Tensor, tag: int = 0) -> Message:
        self._posts.setdefault((self.rank, target, tag), deque()).append(tensor.clone())
        return _Sent()

    def receive(self, source: int, tensor: Tensor, tag: int = 0) -> Message:
        return _Arrival(self._posts.setdefault((source, self.rank, tag), deque()), tensor)


class _Sent:
    def done(self) -> bool:
        return True

    def wait(self) -> None:
        pass


class _Arrival:
    def __init__(self, posts: deque[Tensor], tensor: Tensor):
        self._posts, self._tensor, self._filled = posts, tensor, False

    def done(self) -> bool:
        if not self._filled and self._posts:
            sent = self._posts.popleft()
            assert (sent.shape, sent.dtype) == (self._tensor.shape, self._tensor.dtype), (
                sent.shape,
                self._tensor.shape,
            )
            self._tensor.copy_(sent)
            self._filled = True
        return self._filled

    def wait(self) -> None:
        if not self.done():
            raise RuntimeError("a logical rank waits for itself; drive logical ranks with run_together")


def local_transports(size: int) -> list[LocalTransport]:
    """Logical ranks that reach each other."""
    posts: Posts = {}
    return [LocalTransport(rank, size, posts) for rank in range(size)]


def run_together(programs: Sequence[Program[Result]], seed: int | None = None) -> list[Result]:
    """Drive the programs of all logical ranks to their ends, in turns (`seed`: in a random order).

    Raises RuntimeError where all that are left wait for each other.
    """
    order = random.Random(seed)
    waiting: dict[int, Message | None] = dict.fromkeys(range(len(programs)))
    results: dict[int, Result] = {}
    while waiting:
        ready = [rank for rank, message in waiting.items() if message is None or message.done()]
        if not ready:
            raise RuntimeError(f"ranks {sorted(waiting)} wait for each other")
        rank = ready[0] if seed is None else order.choice(ready)
        try:
            waiting[rank] = next(programs[rank])
        except StopIteration as end:
            results[rank] = end.value
            del waiting[rank]
    return [results[rank] for rank in range(len(programs))]


class TorchTransport(Transport):
    """This process of torch.distributed's default group: gloo, whose tags keep messages apart."""

    def __init__(self) -> None:
        """Raises ValueError for another backend."""
        if dist.get_backend() != "gloo":
            raise ValueError(f"backend {dist.get_backend()!r} is not allowed; expected 'gloo', which has tags")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def send(self, target: int, tensor: Tensor, tag: int = 0) -> Message:
        return _Posted(target, lambda: dist.isend(tensor, target, tag=tag), tensor)

    def receive(self, source: int, tensor: Tensor, tag: int = 0) -> Message:
        return _Posted(source, lambda: dist.irecv(tensor, source, tag=tag), tensor)


class _Posted:
    def __init__(self, other: int, post, tensor: Tensor):  # type: ignore[no-untyped-def]
        self._other, self._tensor = other, tensor  # kept until the message is done
        try:
            self._work = post()
        except RuntimeError as error:
            raise RankLost(f"rank {other} is gone: {error}") from error

    def done(self) -> bool:
        return bool(self._work.is_completed())

    def wait(self) -> None:
        try:
            self._work.wait()
        except RuntimeError as error:
            raise RankLost(f"rank {self._other} is gone: {error}") from error


def run_alone(program: Program[Result]) -> Result:
    """Drive this process's program, waiting for each message in turn."""
    while True:
        try:
            next(program).wait()
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
