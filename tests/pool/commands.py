"""Commands of wavefold in processes that can be killed, started quickly: a process that has imported all forks them.

    python -m tests.pool.commands FILE      reads lines {"arguments": [...], "kill_at": N}, answers with a process's id,
                                            then with its exit code (minus the number of the signal that ended it)

`kill_at`: the process kills itself before its N-th change to the file system, counted from 0; -1: never.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHANGES = ("mkdir", "replace", "rename", "unlink", "write", "ftruncate")

RECEIVE_BYTES = 32 << 10


class Commands:
    """Runs commands one after another. `said`: the file with their output."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        self.process, self.said = process, said

    def run(self, *arguments: str, kill_at: int = -1, started: Callable[[int], object] = lambda pid: None) -> int:
        """The exit code. `started` hears the process's id."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.said.write_text("")
        self.process.stdin.write(json.dumps({"arguments": arguments, "kill_at": kill_at}) + "\n")
        self.process.stdin.flush()
        started(int(self.process.stdout.readline()))
        return int(self.process.stdout.readline())


@contextmanager
def commands(folder: Path, environment: dict[str, str]) -> Iterator[Commands]:
    """Commands whose output goes to a file in `folder`."""
    said = folder / "said"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.pool.commands", str(said)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1"} | environment, cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        yield Commands(process, said)
        assert process.stdin is not None
        process.stdin.close()


def serve(said: str) -> None:
    import httpx2
    import rich.progress
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    import wavefold.pool.pull
    from wavefold.cli.main import main

    assert all((httpx2, rich.progress, HfApi, hf_hub_url, wavefold.pool.pull)), "what a command imports"
    build_hf_headers()
    limit_receive_buffers()

    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            output = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(output, 1), os.dup2(output, 2)
            code = 99
            try:
                kill_before(asked["kill_at"])
                code = main(asked["arguments"])
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def limit_receive_buffers() -> None:
    """Connections of this process and its children take little in before it is read: what a kill loses is bounded."""
    connect = socket.create_connection

    def limited(*arguments: Any, **options: Any) -> socket.socket:
        connection = connect(*arguments, **options)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        return connection

    socket.create_connection = limited


def kill_before(number: int, names: Sequence[str] = CHANGES) -> None:
    """This process kills itself before its `number`-th call of these functions of `os`."""
    left = [number]

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*arguments, **options)

        return call

    if number >= 0:
        for name in names:
            setattr(os, name, counted(getattr(os, name)))


if __name__ == "__main__":
    serve(sys.argv[1])
