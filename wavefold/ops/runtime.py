"""The runtime of the CPU kernels: threads, instruction set, tuning, batch invariance. Models hold and share runtimes.

    shared runtime     the default: torch's number of threads, the processor's best instructions
    model.runtime      used inside the passes of one model
    with using(...)    used inside a block, in this thread alone

No state belongs to the process: two models with different runtimes may be called from different threads at once.
Calls on one runtime wait for each other, since its threads serve one call at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from wavefold.ops import tuning as tunings
from wavefold.ops.native import library
from wavefold.ops.tuning import Tuning

BACKENDS = ("auto", "reference")
ACTIVATIONS = ("bf16", "int8")


class Runtime:
    """Threads and kernels of the CPU library. Freed when it has no holder and no call runs on it.

    `threads`: their number (None: torch's number at each call). `isa`: the instruction set, one of `isas()` (None: the
    processor's best). `batch_invariant`: row i of a batch has the same bytes whatever the batch, at the price of
    slower prompts. `backend`: "auto", kernels where they can compute (bfloat16 activations on a CPU) and references
    elsewhere; or "reference", plain torch throughout. `activations`: of products with FP4 and FP8 matrices: "bf16", as
    the arithmetic says, or "int8", rounded to 8 bits with a scale for 32 columns (docs/arithmetic.md), which references
    do not do. `tuning`: how the kernels feed themselves (None: WAVEFOLD_TUNING when the first call runs, else the usual
    one of the processor). Raises ValueError for values that are not allowed.
    """

    def __init__(
        self, threads: int | None = None, isa: str | None = None, batch_invariant: bool = False, backend: str = "auto",
        activations: str = "bf16", tuning: Tuning | None = None,
    ):  # fmt: skip
        if threads is not None and threads < 1:
            raise ValueError(f"threads = {threads} is not allowed; expected 1 or more, or None for torch's number")
        if isa is not None and isa not in isas():
            raise ValueError(f"instruction set {isa!r} is not allowed; expected one of {', '.join(isas())}")
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r} is not allowed; expected one of {', '.join(BACKENDS)}")
        if activations not in ACTIVATIONS:
            raise ValueError(f"activations = {activations} is not allowed; expected one of {', '.join(ACTIVATIONS)}")
        if activations == "int8" and backend == "reference":
            raise ValueError("activations = int8 is for the CPU kernels; expected backend = auto with it")
        self.threads, self.batch_invariant, self.backend = threads, batch_invariant, backend
        self.activations = activations
        self._isa = isa
        self._tuning = None if tuning is None else tuning.checked()
        self._handle: library.Handle | None = None
        self._lock = threading.Lock()
        self._spent_ns = 0

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._isa or isas()[0]

    @property
    def tuning(self) -> Tuning:
        """The tuning in use. Raises ValueError for a WAVEFOLD_TUNING that is not one."""
        return tunings.default(self._isa) if self._tuning is None else self._tuning

    @property
    def seconds(self) -> float:
        """Seconds that calls on this runtime have spent inside the library."""
        with self._lock:
            return (self._spent_ns + (self._handle.inside_ns if self._handle else 0)) / 1e9

    def handle(self) -> library.Handle:
        """Returns the library's threads for a call. Raises ValueError where so many threads cannot be started."""
        threads = self.threads or torch.get_num_threads()
        if (handle := self._handle) is not None and handle.serves(threads):
            return handle
        with self._lock:  # a running call keeps the old handle alive until it returns
            if (handle := self._handle) is not None and handle.serves(threads):  # made by another thread meanwhile
                return handle
            if handle is not None and handle.is_usable:
                self._spent_ns += handle.inside_ns
            is_int8 = self.activations == "int8"
            self._handle = library.Handle(threads, self._isa, self.batch_invariant, is_int8, self.tuning.numbers())
            return self._handle

    @contextlib.contextmanager
    def active(self) -> Iterator[Runtime]:
        """Makes ops that this thread calls inside the block run on this runtime."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def but(
        self, threads: int | None = None, isa: str | None = None, batch_invariant: bool | None = None,
        backend: str | None = None, activations: str | None = None, tuning: Tuning | None = None,
    ) -> Runtime:  # fmt: skip
        """Returns a new runtime that differs in the arguments that are not None."""
        return Runtime(
            self.threads if threads is None else threads,
            self._isa if isa is None else isa,
            self.batch_invariant if batch_invariant is None else batch_invariant,
            self.backend if backend is None else backend,
            self.activations if activations is None else activations,
            self._tuning if tuning is None else tuning,
        )

    def __repr__(self) -> str:
        threads = "torch's" if self.threads is None else self.threads
        name = self.isa if library.available() else "none"
        invariant = ", batch-invariant" if self.batch_invariant else ""
        activations = "" if self.activations == "bf16" else f", activations={self.activations}"
        is_usual = not library.available() or self.tuning == tunings.usual(self._isa)
        tuning = "" if is_usual else f", tuning={self.tuning}"
        return f"Runtime(threads={threads}, isa={name}, backend={self.backend}{invariant}{activations}{tuning})"


def isas() -> list[str]:
    """Returns the instruction sets that are compiled in and that this processor has, best first."""
    return library.isas() if library.available() else []


def current() -> Runtime:
    """Returns the runtime of ops that this thread calls: that of the innermost block, else the shared runtime."""
    return _current.get()


@contextlib.contextmanager
def using(
    threads: int | None = None, isa: str | None = None, batch_invariant: bool | None = None,
    backend: str | None = None, activations: str | None = None, tuning: Tuning | None = None,
) -> Iterator[Runtime]:  # fmt: skip
    """Runs this thread's ops in the block on a runtime that differs from the current one in the given arguments.

    A model that has a runtime of its own keeps it inside its passes.
    """
    with current().but(threads, isa, batch_invariant, backend, activations, tuning).active() as runtime:
        yield runtime


class Timing:
    """`seconds` spent inside the library while the block ran."""

    seconds = 0.0


@contextlib.contextmanager
def timing(runtime: Runtime | None = None) -> Iterator[Timing]:
    """Measures the calls of all threads on a runtime (None: the current one) while the block runs."""
    watched, spent = runtime or current(), Timing()
    before = watched.seconds
    try:
        yield spent
    finally:
        spent.seconds = watched.seconds - before


shared = Runtime()
_current: ContextVar[Runtime] = ContextVar("runtime", default=shared)
library.use_runtime_of(lambda: _current.get().handle())
