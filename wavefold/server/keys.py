"""API keys: who may use the server. A file has their SHA-256, a line each; a key itself is shown once, when it is made.

sha256:5e88489...      # a comment

Keys are random (256 bits), so that a hash that is quick to compute gives nothing away.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from wavefold.system.reasons import reason_of

LINE = re.compile(r"sha256:([0-9a-f]{64})(?:\s*#.*)?")


class Keys:
    """The keys that are accepted; without any, nobody is asked for one."""

    def __init__(self, digests: Sequence[bytes] = ()):
        self._digests = tuple(digests)

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Returns the keys of a file. Raises ValueError for one without keys, and for a line that is no hash."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {reason_of(error)}; expected a file that --new-api-key has written") from None
        digests = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if (found := LINE.fullmatch(line.strip())) is None:  # it may be a key: it is not shown
                raise ValueError(f"{path}: line {number} is not allowed; expected sha256: and 64 hexadecimal digits")
            digests.append(bytes.fromhex(found[1]))
        if not digests:
            raise ValueError(f"{path}: holds no key; make one with --new-api-key {path}")
        return cls(digests)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def allow(self, headers: Mapping[str, str]) -> bool:
        """True if a request with these headers, whose names are in lower case, may be answered.

        The time that it takes depends on the number of keys and on the length of what was sent, not on its content.
        """
        if not self._digests:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        keys = headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""
        digests = [hashlib.sha256(key.encode("utf-8", errors="surrogatepass")).digest() for key in keys]
        return sum([hmac.compare_digest(digest, one) for digest in digests for one in self._digests]) > 0


def new_key(path: Path) -> str:
    """Makes a key and appends its hash to a file. Returns the key. A new file is its owner's alone."""
    key = f"wf-{secrets.token_urlsafe(32)}"
    line = f"sha256:{hashlib.sha256(key.encode()).hexdigest()}\n".encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        is_amid_line = file.read(1) not in (b"", b"\n")
        file.write(b"\n" + line if is_amid_line else line)
    return key
