"""A Hugging Face hub on this machine, as far as `huggingface_hub` asks one for models: API, files, and a host for LFS.

The protocol is that of huggingface_hub 2.4.0, whose own `snapshot_download` fetches from it too (test_pull.py). Bytes
are counted where they are sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

SLICE = 16 << 10
STALL_S = 0.5
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin")


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Sent:
    """One answer to a GET of a file: from which byte on, and how many bytes left."""

    path: str
    begin: int
    num_bytes: int = 0
    authorization: str | None = None


@dataclass
class FakeHub:
    """Repositories {name: {commit: {path: bytes}}}, branches {name: commit}. What is set here holds from now on."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    repo: str = "someone/model"
    served: dict[str, bytes] = field(default_factory=dict)
    """What is sent in place of a file, by path; the listing speaks of the right one."""
    refusals: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    """Answers (status, headers) to the next requests, by the beginning of their path."""
    with_ranges: bool = True
    cut_after: int = 0
    """Bytes after which a connection breaks; 0: never."""
    pause_s: float = 0.0
    """Between slices."""
    stalls: int = 0
    """Answers that begin and then bring nothing for a while."""
    sent: list[Sent] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    on_bytes: Callable[[int], None] = lambda num_bytes: None
    """Hears all bytes of files that were sent so far."""
    endpoint: str = ""
    lfs_endpoint: str = ""

    def put(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit of a branch."""
        commit = hashlib.sha1(json.dumps({path: git_sha1(content) for path, content in files.items()}).encode())
        self.commits[commit.hexdigest()] = files
        self.branches[branch] = commit.hexdigest()
        return commit.hexdigest()

    @property
    def num_bytes(self) -> int:
        return sum(one.num_bytes for one in self.sent)

    def commit_of(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeHub]:
        servers = [_Server(("127.0.0.1", 0), kind) for kind in (_Hub, _Lfs)]
        self.endpoint, self.lfs_endpoint = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
        for server, thread in zip(servers, threads, strict=True):
            server.hub = self
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(servers, threads, strict=True):
                server.shutdown()
                thread.join()
                server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: FakeHub

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        # Little is on its way: what was sent was nearly read.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SLICE)

    def log_message(self, format: str, *args: object) -> None:
        pass

    @property
    def hub(self) -> FakeHub:
        return self.server.hub

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refused(self, path: str) -> bool:
        self.hub.requests.append(f"{self.command} {path}")
        for begin, answers in self.hub.refusals.items():
            if path.startswith(begin) and answers:
                self.answer(*answers.pop(0))
                return True
        return False

    def file(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = 0, len(content)
        if found and self.hub.with_ranges:
            begin, end = int(found[1]), min(int(found[2] or len(content)) + 1, len(content))
            if begin >= len(content):
                return self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
            headers = headers | {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"}
        headers = headers | {"Content-Length": str(end - begin), "Accept-Ranges": "bytes"}
        self.answer(206 if "Content-Range" in headers else 200, headers)
        if self.command == "HEAD":
            return None
        if self.hub.stalls:
            self.hub.stalls -= 1
            time.sleep(STALL_S)
            self.close_connection = True
            return None
        one = Sent(path, begin, authorization=self.headers.get("Authorization"))
        self.hub.sent.append(one)
        for at in range(begin, end, SLICE):
            if self.hub.cut_after and one.num_bytes >= self.hub.cut_after:
                self.close_connection = True
                return None
            piece = content[at : min(at + SLICE, end)]
            self.wfile.write(piece)
            one.num_bytes += len(piece)
            self.hub.on_bytes(self.hub.num_bytes)
            if self.hub.pause_s:
                time.sleep(self.hub.pause_s)
        return None


class _Hub(_Handler):
    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.refused(path):
            return None
        hub = self.hub
        if found := re.fullmatch(rf"/api/models/{re.escape(hub.repo)}(?:/(revision|tree)/(.+))?", path):
            commit = hub.commit_of(found[2] or "main")
            if commit is None:
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            files = hub.commits[commit]
            values = _tree(files) if found[1] == "tree" else {"id": hub.repo, "sha": commit, "siblings": _blobs(files)}
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(values).encode())
        if found := re.fullmatch(rf"/{re.escape(hub.repo)}/resolve/([^/]+)/(.+)", path):
            commit = hub.commit_of(found[1])
            if commit is None or found[2] not in hub.commits[commit]:
                return self.answer(404, {"X-Error-Code": "EntryNotFound" if commit else "RevisionNotFound"})
            if not found[2].endswith(LFS_SUFFIXES):  # on to a cache of the hub itself
                return self.answer(307, {"Location": f"/cache/{commit}/{quote(found[2])}", "X-Repo-Commit": commit})
        if found := found or re.fullmatch(r"/cache/([^/]+)/(.+)", path):
            commit = found[1]
            content = hub.commits[commit][found[2]]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(content)}"'}
            if not found[2].endswith(LFS_SUFFIXES):
                return self.file(found[2], hub.served.get(found[2], content), headers)
            sha256 = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
            place = f"{hub.lfs_endpoint}/{commit}/{found[2]}?signature=abc"
            return self.answer(302, headers | {"Location": place})
        return self.answer(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    do_HEAD = do_GET


class _Lfs(_Handler):
    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if self.refused(path := unquote(parts.path)):
            return
        commit, _, name = path[1:].partition("/")
        if parts.query != "signature=abc":
            self.answer(403, {})
            return
        content = self.hub.commits[commit][name]
        self.file(name, self.hub.served.get(name, content), {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

    do_HEAD = do_GET


def _blobs(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {"rfilename": path, "size": len(content), "blobId": git_sha1(content)}
        | ({"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
           if path.endswith(LFS_SUFFIXES) else {})
        for path, content in files.items()
    ]  # fmt: skip


def _tree(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
        | ({"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
           if path.endswith(LFS_SUFFIXES) else {})
        for path, content in files.items()
    ]  # fmt: skip
