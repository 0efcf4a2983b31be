"""Commands of the command line in control groups of a few sizes: `python -m tests.system.in_group JOBS.json`.

A job is [name, bytes of the limit, the command's words]. torch is imported once; each job is a fork in a new group.
Prints a JSON list: [name, exit code (negative: killed by that signal), the last line on stderr].
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

FIRST, SECOND = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def limit_file() -> Path | None:
    """The limit's file in a group that could be made and removed again; None where none can."""
    for parent, name in ((FIRST, "memory.limit_in_bytes"), (SECOND, "memory.max")):
        group = parent / f"wavefold-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                if os.access(group / name, os.W_OK):
                    return group / name
            finally:
                group.rmdir()
    return None


def run(limit: Path, num_bytes: int, words: list[str]) -> tuple[int, str]:
    """The exit code of a command in a new group of `num_bytes`, and the last line that it wrote to stderr."""
    limit.parent.mkdir()
    limit.write_text(str(num_bytes))
    with tempfile.TemporaryFile("w+") as said:
        if (child := os.fork()) == 0:
            (limit.parent / "cgroup.procs").write_text(str(os.getpid()))
            os.dup2(said.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 1
            with contextlib.suppress(BaseException):
                code = main(words)
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        lines = said.read().splitlines() or [""]
    for _ in range(100):  # the kernel takes a moment to see that it is empty
        with contextlib.suppress(OSError):
            limit.parent.rmdir()
            break
        time.sleep(0.05)
    return code, lines[-1]


if __name__ == "__main__":
    import torch

    from wavefold.cli.main import main
    from wavefold.train import trainer  # noqa: F401  imported before the forks

    torch.set_num_threads(1)
    file = limit_file()
    assert file is not None
    jobs = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([[name, *run(file, num_bytes, words)] for name, num_bytes, words in jobs]))
