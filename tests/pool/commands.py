"""Commands of wavefold in processes that can be killed, started quickly: a process that has imported all forks them.

    python -m tests.pool.commands FILE      reads lines {"arguments": [...], "kill_at": N}, answers with a process's id,
                                            then with its exit code (minus the number of the signal that ended it)

`kill_at`: the process kills itself before its N-th change to the file system, counted from 0; -1: never.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CHANGES = ("mkdir", "replace", "rename", "fsync", "unlink", "write", "ftruncate")


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
