"""What the CPU kernels run on: threads, an instruction set, batch invariance. Held by models, shared by them.

    shared runtime     whoever says nothing uses it: torch's number of threads, the processor's best instructions
    model.runtime      a model's own, in use inside its passes
    with using(...)    another one for a block, in this thread alone

Nothing here belongs to the process: two models with different runtimes may be called from different threads at once.
Calls on one runtime wait for each other, since its threads serve one call at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from wavefold.ops.native import library

BACKENDS = ("auto", "reference")


class Runtime:
    """Threads and kernels of the CPU library. Freed when its last holder lets go and no call runs on it.

    `threads`: how many (None: as many as torch uses at each call). `isa`: the instruction set, one of `isas()` (None:
    the processor's best). `batch_invariant`: row i of a batch has the same bytes whatever the batch, at the price of
    slower prompts. `backend`: "auto", kernels for what they take (bfloat16 activations on a CPU) and references for
    the rest; or "reference", plain torch throughout. Raises ValueError for values that are not allowed.
    """

    def __init__(
        self, threads: int | None = None, isa: str | None = None, batch_invariant: bool = False, backend: str = "auto"
    ):
        if threads is not None and threads < 1:
            raise ValueError(f"threads = {threads} is not allowed; expected 1 or more, or None for torch's number")
        if isa is not None and isa not in isas():
            raise ValueError(f"instruction set {isa!r} is not allowed; expected one of {', '.join(isas())}")
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r} is not allowed; expected one of {', '.join(BACKENDS)}")
        self.threads, self.batch_invariant, self.backend = threads, batch_invariant, backend
        self._isa = isa
        self._handle: library.Handle | None = None
        self._lock = threading.Lock()
        self._spent_ns = 0

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._isa or isas()[0]

    @property
    def seconds(self) -> float:
        """Time that calls on this runtime have spent inside the library."""
        with self._lock:
            return (self._spent_ns + (self._handle.inside_ns if self._handle else 0)) / 1e9

    def handle(self) -> library.Handle:
        """The library's threads, for a call. Raises ValueError where so many cannot be had."""
        threads = self.threads or torch.get_num_threads()
        handle = self._handle
        if handle is not None and handle.is_usable and handle.threads == threads:
            return handle
        with self._lock:  # a call that runs on the old one holds it until it returns
            if self._handle is not None and self._handle.is_usable:
                self._spent_ns += self._handle.inside_ns
            self._handle = library.Handle(threads, self._isa, self.batch_invariant)
            return self._handle

    @contextlib.contextmanager
    def active(self) -> Iterator[Runtime]:
        """Ops that this thread calls inside the block run here."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def but(
        self, threads: int | None = None, isa: str | None = None, batch_invariant: bool | None = None,
        backend: str | None = None,
    ) -> Runtime:  # fmt: skip
        """A runtime of its own that differs in what is given."""
        return Runtime(
            self.threads if threads is None else threads,
            self._isa if isa is None else isa,
            self.batch_invariant if batch_invariant is None else batch_invariant,
            self.backend if backend is None else backend,
        )

    def __repr__(self) -> str:
        threads = "torch's" if self.threads is None else self.threads
        name = self.isa if library.available() else "none"
        invariant = ", batch-invariant" if self.batch_invariant else ""
        return f"Runtime(threads={threads}, isa={name}, backend={self.backend}{invariant})"


def isas() -> list[str]:
    """Instruction sets that were compiled in and that this processor has, best first; none without the library."""
    return library.isas() if library.available() else []


def current() -> Runtime:
    """The runtime of ops that this thread calls: that of the innermost block, else the shared one."""
    return _current.get()


@contextlib.contextmanager
def using(
    threads: int | None = None, isa: str | None = None, batch_invariant: bool | None = None, backend: str | None = None
) -> Iterator[Runtime]:
    """For this block, and in this thread, a runtime that differs from the current one in what is given."""
    with current().but(threads, isa, batch_invariant, backend).active() as runtime:
        yield runtime


class Timing:
    """`seconds` spent inside the library while the block ran."""

    seconds = 0.0


@contextlib.contextmanager
def timing(runtime: Runtime | None = None) -> Iterator[Timing]:
    """The time of calls on a runtime (None: the current one), by whichever thread, while the block runs."""
    watched, spent = runtime or current(), Timing()
    before = watched.seconds
    try:
        yield spent
    finally:
        spent.seconds = watched.seconds - before


shared = Runtime()
_current: ContextVar[Runtime] = ContextVar("runtime", default=shared)
library.use_runtime_of(lambda: _current.get().handle())
