"""Messages between ranks: posted ahead, waited for later.

    LocalTransport    logical ranks in one process, driven in turns by `run_together`: for tests and figures
    TorchTransport    torch.distributed, point to point (gloo; torchrun starts the processes)

The program of a rank is a generator: it yields each message that it has to wait for. A process blocks on the message.
Logical ranks take turns; if none of them can go on, the schedule is wrong and `run_together` raises RuntimeError.
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
        """True if the buffer may be used again."""

    def wait(self) -> None:
        """Blocks until the message is done. Raises RankLost if the other rank is gone."""


Program = Generator[Message, None, Result]
"""The program of a rank: it yields each message that it waits for, and returns a result."""


class RankLost(RuntimeError):
    """Another rank died or was cut off."""


class Transport(ABC):
    """Connects a rank to the others. Messages of one tag between two ranks arrive in the order of sending."""

    rank: int
    size: int

    @abstractmethod
    def send(self, target: int, tensor: Tensor, tag: int = 0) -> Message:
        """Post a contiguous tensor; it must not change until the message is done."""

    @abstractmethod
    def receive(self, source: int, tensor: Tensor, tag: int = 0) -> Message:
        """Post a contiguous buffer for a message of exactly this size."""


Posts = dict[tuple[int, int, int], deque[Tensor]]
"""Messages that were sent but not yet received, by (source, target, tag)."""


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
    """Returns `size` logical ranks that are connected to each other."""
    posts: Posts = {}
    return [LocalTransport(rank, size, posts) for rank in range(size)]


def run_together(programs: Sequence[Program[Result]], seed: int | None = None) -> list[Result]:
    """Drives the programs of all logical ranks to their ends, in turns. `seed`: in a random order.

    Raises RuntimeError if all remaining ranks wait for each other.
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
    """This process in the default group of torch.distributed. The backend is gloo, since it supports tags."""

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
    """Drives one program and waits for each message in turn."""
    while True:
        try:
            next(program).wait()
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
