"""The file of a batch's results: one line each, appended as answers end.

A line is written at once and never changed. A kill amid a write leaves a part of a line, which the next run cuts off; a
line whose answer was not written is answered again. One process has the file at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from wavefold.atomic import PRIVATE, try_lock


class Results:
    """The results in `path`, which is made if need be, readable by its owner alone. `done`: keys of lines in it."""

    def __init__(self, path: Path, keys: Collection[str], elsewhere: Collection[str] = ()):
        """`keys` of the batch; `elsewhere`: those that another process writes to another file.

        Raises ValueError where another process has the file, or it is another batch's or another shard's.
        """
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE)
        try:
            if not try_lock(self._descriptor):
                raise ValueError(f"{path}: another process writes it; wait for it, or give another name")
            self.done = self._read(set(keys), set(elsewhere))
        except BaseException:
            os.close(self._descriptor)
            raise

    def _read(self, keys: set[str], elsewhere: set[str]) -> set[str]:
        done: set[str] = set()
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    values = json.loads(line)
                    key = str(values["custom_id"] if "custom_id" in values else values["id"])
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{self.path}: line {number} is no result of a batch; give another name") from None
                if key not in keys and key in elsewhere:
                    raise ValueError(
                        f"{self.path}: line {number} is the result of {key!r}, which is another shard's; give each "
                        "shard a file of its own"
                    )
                if key not in keys:
                    raise ValueError(
                        f"{self.path}: line {number} is the result of {key!r}, which this batch does not have; give "
                        "another name"
                    )
                done.add(key)
                end += len(line)
        os.ftruncate(self._descriptor, end)
        return done

    def append(self, key: str, result: Mapping[str, object]) -> None:
        """Writes a result. Raises OSError, with nothing of the line left, where the disk is full."""
        line = (json.dumps(result, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
        end = os.fstat(self._descriptor).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            raise OSError(
                error.errno, f"{self.path}: {error.strerror}; results so far are kept: run it again"
            ) from None
        self.done.add(key)

    def close(self) -> None:
        """Makes sure that all results are on the disk. Raises OSError where that fails."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:  # file systems that allocate late say only now that the disk is full
            raise OSError(
                error.errno, f"{self.path}: {error.strerror}; results may be missing from its end: run it again"
            ) from None
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
