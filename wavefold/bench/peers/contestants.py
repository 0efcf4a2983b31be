"""Contestants of `wavefold bench peers`: their processes, the rows of their figures, and the peers that cannot run."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavefold.bench.limits import Bounded, Limits
from wavefold.bench.peers import OURS, Peer
from wavefold.bench.worker import Worker

ROOT = Path(__file__).parents[3]
STARTER = "import json, sys; sys.path.append(sys.argv[1]); from wavefold.bench.peers.worker import main; " \
    "main(sys.argv[2], json.loads(sys.argv[3]))"  # fmt: skip
"""A peer's Python finds this package last, after everything of its own."""


@dataclass
class PeerRow(Bounded):
    """One contestant and measurement: median seconds in each turn, the machine's rates, the error.

    `kind` is "experts" (a call with `tokens`), "prefill" (a prompt of `tokens`) or "decode" (a token after so many).
    `bytes` and `operations` are those that such a call or token needs, as means over a run.
    """

    name: str
    kind: str
    tokens: int
    bytes: float
    operations: float
    error: float = float("nan")
    seconds: list[float] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)

    def ratio(self, ours: PeerRow) -> float:
        """How many times as long it takes as `ours`: the median over turns."""
        return statistics.median(a / b for a, b in zip(self.seconds, ours.seconds, strict=True))


def ours_of(row: PeerRow, rows: Sequence[PeerRow]) -> PeerRow:
    """Returns our row of the same measurement."""
    return next(r for r in rows if r.name == OURS and (r.kind, r.tokens) == (row.kind, row.tokens))


@dataclass(frozen=True)
class Missing:
    """A peer that did not run: `reason` says why. `command` installs it; it is None for a peer that failed."""

    name: str
    reason: str
    command: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" + (f"; install it with: {self.command}" if self.command else "")


def environment(threads: object) -> dict[str, str]:
    """Variables for a contestant: as many threads for everybody, which sleep where they can."""
    return {
        "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "FLYWEIGHT_CPU_THREADS": str(threads),
    }  # fmt: skip


class Contestants:
    """The processes of all contestants, ours first. A peer that fails leaves, and `missing` says why.

    Owns the processes. Close them, or use it in a `with`.
    """

    def __init__(
        self, peers: Sequence[Peer], ours: str, python: str, settings: Mapping[str, object],
        ours_settings: Mapping[str, object], report: Callable[[str], None],
    ):  # fmt: skip
        """`ours` is the module of our contestant, which takes `ours_settings` too. Raises ValueError if it fails."""
        self.workers: list[Worker] = []
        self.missing: list[Missing] = []
        try:
            for peer in (Peer(OURS, ours, ""), *peers):
                report(f"{peer.name}: loading")
                more = ours_settings if peer.name == OURS else {}
                self._start(peer, sys.executable if peer.name == OURS else python, {**settings, **more})
        except BaseException:
            self.close()
            raise

    def _start(self, peer: Peer, python: str, settings: Mapping[str, object]) -> None:
        command = [python, "-c", STARTER, str(ROOT), peer.module, json.dumps(settings)]
        try:
            worker = Worker(peer.name, command, environment(settings["threads"]))
        except (ValueError, OSError) as error:
            self._drop(peer.name, error)
            return
        if name := worker.greeting.get("missing"):
            worker.close()
            self._drop(peer.name, ValueError(f"{name} is not installed in {python}"), peer.command)
        else:
            self.workers.append(worker)

    def ask(self, worker: Worker, request: Mapping[str, object]) -> dict[str, Any] | None:
        """Returns a contestant's answer, or None if it is a peer that has failed, now or before."""
        if worker not in self.workers:
            return None
        try:
            return worker.ask(request)
        except ValueError as error:
            self._drop(worker.name, error)
            self.workers.remove(worker)
            worker.close()
            return None

    def _drop(self, name: str, error: Exception, command: str | None = None) -> None:
        """Notes why a peer does not run. Raises the error if it is ours."""
        if name == OURS:
            raise error
        self.missing.append(Missing(name, str(error).removeprefix(f"{name}: "), command))

    def complete(self, rows: Iterable[PeerRow]) -> list[PeerRow]:
        """Returns the rows of the contestants that have not failed."""
        names = {worker.name for worker in self.workers}
        return [row for row in rows if row.name in names]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def __enter__(self) -> Contestants:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
