"""A link between two ranks on one machine: two network namespaces, a veth pair, `tc tbf` on both ends. Needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

ADDRESSES = "10.99.7.1", "10.99.7.2"
PORT = "29823"


class PacedLink:
    """A link, until `close`. Commands of rank r follow `inside(r)`, and see `interfaces[r]` with `addresses[r]`."""

    def __init__(self) -> None:
        """Raises ValueError without root."""
        if os.geteuid():
            raise ValueError("network namespaces need root; run this with sudo, or over loopback")
        number = os.getpid() % 100000
        self.addresses = ADDRESSES
        self.interfaces = [f"wf{number}{side}" for side in "ab"]
        self._spaces = [f"wavefold{number}{side}" for side in "ab"]
        for space in self._spaces:
            _ip("netns", "add", space)
        first, second = self.interfaces
        spaces = self._spaces
        _ip("link", "add", first, "netns", spaces[0], "type", "veth", "peer", "name", second, "netns", spaces[1])
        for space, interface, address in zip(self._spaces, self.interfaces, ADDRESSES, strict=True):
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", interface)
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", interface, "up")

    def inside(self, rank: int) -> list[str]:
        """The words before a rank's command."""
        return ["ip", "netns", "exec", self._spaces[rank]]

    def pace(self, bytes_per_s: float) -> None:
        """Set the rate of both directions (0: as fast as it goes)."""
        for rank, interface in enumerate(self.interfaces):
            tc = [*self.inside(rank), "tc", "qdisc"]
            if bytes_per_s:
                rate = f"{8 * bytes_per_s / 1e3:.0f}kbit"
                _run([*tc, "replace", "dev", interface, "root", "tbf", "rate", rate, "burst", "1mb", "limit", "64mb"])
            else:
                subprocess.run([*tc, "del", "dev", interface, "root"], check=False, stderr=subprocess.DEVNULL)

    def run(self, words: Sequence[str]) -> str:
        """Run `words` on both ranks, one thread each, and return the first output. Raises RuntimeError if one fails."""
        ranks = []
        for rank, interface in enumerate(self.interfaces):
            environment = os.environ | {
                "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": self.addresses[0],
                "MASTER_PORT": PORT, "GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            inside = [*self.inside(rank), *words]
            ranks.append(subprocess.Popen(inside, stdout=subprocess.PIPE, text=True, env=environment))
        out = [rank.communicate()[0] for rank in ranks]
        if any(rank.returncode for rank in ranks):
            raise RuntimeError(f"a rank failed: {' '.join(words)}")
        return out[0]

    def close(self) -> None:
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=False)


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)
