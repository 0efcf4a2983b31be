"""A repository of the Hugging Face hub: its files at one commit, and their bytes from any place on.

`huggingface_hub` knows where the hub is (HF_ENDPOINT), who asks (HF_TOKEN, `hf auth login`) and whether to ask at all
(HF_HUB_OFFLINE). Its own downloads begin anew after a kill and look at sizes alone (2.4.0), so files are asked for
here, through its session. A token is not sent on to the host of large files: the session drops it where hosts change.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavefold import __version__

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

INSTALL = "pip install 'wavefold[hub]'"
FIRST_WAIT_S = 1.0
"""Before a request is repeated that the hub could not answer; then twice as long, five times."""
COMMIT = re.compile(r"[0-9a-f]{40}")


class ConnectionLost(Exception):
    """The connection broke or nothing came: worth another try."""


class WrongSize(ValueError):
    """A host has another number of bytes for a file than the hub names."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `digest`: SHA-256 of its bytes where `is_lfs`, else SHA-1 of its git blob; in hex."""

    path: str
    num_bytes: int
    digest: str
    is_lfs: bool

    def hasher(self) -> hashlib._Hash:
        """Returns what all bytes of the file are given to; its `hexdigest` is then `digest`."""
        if self.is_lfs:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.num_bytes, usedforsecurity=False)

    @property
    def hash_name(self) -> str:
        return "sha256" if self.is_lfs else "git_sha1"


def list_files(repo: str, revision: str) -> tuple[str, list[RemoteFile]]:
    """Returns the commit that a branch, tag or commit of a repository is, and the files of that commit.

    Raises ValueError, with advice, where the hub does not say.
    """
    _require()
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError

    api = HfApi(_endpoint(), library_name="wavefold", library_version=__version__)
    with _told(repo, revision):
        try:
            info = api.model_info(
                repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
        except HFValidationError as error:
            raise ValueError(f"{repo}: is no repository ({error}); expected OWNER/NAME") from None
        except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or other JSON
            info = None
    if info is None or not COMMIT.fullmatch(info.sha or "") or info.siblings is None:
        raise ValueError(f"{repo}: {_endpoint()} does not answer as a hub does; check HF_ENDPOINT and the network")
    return str(info.sha), [_remote_file(repo, sibling) for sibling in info.siblings]


@contextlib.contextmanager
def bytes_of_file(
    repo: str, commit: str, file: RemoteFile, begin: int, end: int
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """While the block runs, (first, pieces): bytes of a file from `first` on, which is `begin`, or 0 if the host sends
    whole files only.

    Raises ConnectionLost, also while pieces are read; WrongSize; ValueError, with advice, for other answers.
    """
    _require()
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    url = hf_hub_url(repo, file.path, revision=commit, endpoint=_endpoint())
    headers = build_hf_headers(library_name="wavefold", library_version=__version__)
    headers |= {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    with _told(repo, commit), http_stream_backoff(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, base_wait_time=FIRST_WAIT_S,
        retry_on_exceptions=(), follow_redirects=True,
    ) as response:  # fmt: skip
        if response.status_code == 416:
            raise WrongSize(f"has no byte {begin:,}")
        hf_raise_for_status(response)
        first, num_bytes = begin, response.headers.get("Content-Length")
        if response.status_code == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != begin:
                raise ConnectionLost(f"answered with other bytes than were asked for ({response.headers})")
            num_bytes = found[2]
        else:
            first = 0
        if num_bytes is not None and int(num_bytes) != file.num_bytes and "Content-Encoding" not in response.headers:
            raise WrongSize(f"has {int(num_bytes):,} bytes")
        yield first, response.iter_bytes()


def _require() -> None:
    """Raises ValueError where huggingface_hub is missing, or another one than this module is written for."""
    # What runs here, and in which surroundings, is nobody's business: no request about it, nothing in the headers.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import httpx2  # noqa: F401
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise ValueError(f"the hub needs huggingface_hub 2.4 or later ({error}); install with: {INSTALL}") from None


def _endpoint() -> str:
    """The hub's address. Read at each call: huggingface_hub reads its variable when it is imported."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def _remote_file(repo: str, sibling: Any) -> RemoteFile:
    if sibling.lfs is not None:
        num_bytes, digest, length = sibling.lfs.size, sibling.lfs.sha256, 64
    else:
        num_bytes, digest, length = sibling.size, sibling.blob_id, 40
    if not isinstance(num_bytes, int) or num_bytes < 0 or not re.fullmatch(rf"[0-9a-f]{{{length}}}", str(digest)):
        raise ValueError(f"{repo}: the hub names no size or no hash of {sibling.rfilename}; nothing can be verified")
    return RemoteFile(sibling.rfilename, num_bytes, digest, sibling.lfs is not None)


@contextlib.contextmanager
def _told(repo: str, revision: str) -> Iterator[None]:
    """Errors of the block become ConnectionLost, or ValueError with advice."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise ValueError(f"{repo}: HF_HUB_OFFLINE is set, so the hub is not asked; unset it to pull") from None
    except HfHubHTTPError as error:
        raise ValueError(f"{repo}: {_advice(error, repo, revision)}") from None
    except httpx2.InvalidURL as error:
        raise ValueError(f"{repo}: {_endpoint()} is no address ({error}); correct HF_ENDPOINT") from None
    except httpx2.RequestError as error:
        raise ConnectionLost(str(error) or type(error).__name__) from None


def _advice(error: HfHubHTTPError, repo: str, revision: str) -> str:
    """What an answer of the hub means, and what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    login = "set HF_TOKEN, or log in with `hf auth login`"
    if isinstance(error, GatedRepoError):
        return f"is gated; ask for access at {_endpoint()}/{repo}, then {login}"
    if isinstance(error, EntryNotFoundError | RevisionNotFoundError) and COMMIT.fullmatch(revision):
        return f"commit {revision} or a file of it is not there; `wavefold rm` an unfinished pull of it, pull anew"
    if isinstance(error, RevisionNotFoundError):
        return f"has no revision {revision}; expected a branch, a tag or a commit that is there"
    if status == 403:
        return f"access is refused (403: {error.server_message or 'no reason given'}); give a token that may read it"
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return f"is not at {_endpoint()}, or is private ({status}); check the name, or {login}"
    return f"the hub answers {status} ({error.server_message or 'no reason given'}); try again later"
