#!/usr/bin/env bash
# huggingface_hub 2.4.0. One would assume that a download of 160 GB that was killed goes on where it was: the tool prints
# progress, keeps *.incomplete files, and older versions resumed them. snapshot_download(..., local_dir=D) fetches the
# file that was under way from its first byte: the name of D/.cache/huggingface/download/*.<8 hex>.incomplete is drawn
# anew by each process, so that the next one finds nothing, asks without a Range header, and leaves the old part in the
# folder for good. For a shard of 5 GB over a slow line that is hours each time. Seen with a hub on this machine that
# speaks the protocol (API, HEAD with X-Linked-Etag, a redirect to a host of large files, ranges). Who needs to resume
# asks for the rest of a file by ranges, and checks the hash.
#
# Seen (Python 3.11, Linux x86-64):
#   killed with 31,457,280 bytes in 1 file; the next call asked for Range None and was sent 50,331,648
#   afterwards 1 .incomplete file is left; the model is whole: True
#   as stated: it begins anew
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet huggingface_hub==2.4.0

cat > "$work/look.py" <<'PY'
import hashlib
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

CONTENT, COMMIT, NAME = os.urandom(48 << 20), "a" * 40, "model.safetensors"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
asked = []  # (Range header, bytes sent) of each GET of the file
slow = threading.Event()
slow.set()


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        if self.path.startswith("/api/models/someone/model"):
            file = {"rfilename": NAME, "size": len(CONTENT), "blobId": "b" * 40,
                    "lfs": {"sha256": SHA256, "size": len(CONTENT), "pointerSize": 134}}
            tree = [{"type": "file", "path": NAME, "size": len(CONTENT), "oid": "b" * 40,
                     "lfs": {"oid": SHA256, "size": len(CONTENT), "pointerSize": 134}}]
            values = tree if "/tree/" in self.path else {"id": "someone/model", "sha": COMMIT, "siblings": [file]}
            return self.reply(200, {"Content-Type": "application/json"}, json.dumps(values).encode())
        if "/resolve/" in self.path:
            return self.reply(302, {"Location": f"http://127.0.0.1:{store.server_address[1]}/lfs", "ETag": '"x"',
                                    "X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{SHA256}"',
                                    "X-Linked-Size": str(len(CONTENT))})
        if self.path != "/lfs":
            return self.reply(404, {})
        ranged = self.headers.get("Range")
        begin = int(ranged.split("=")[1].split("-")[0]) if ranged else 0
        headers = {"Content-Length": str(len(CONTENT) - begin), "Accept-Ranges": "bytes", "ETag": f'"{SHA256}"'}
        if ranged:
            headers["Content-Range"] = f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}"
        if self.command == "HEAD":
            return self.reply(206 if ranged else 200, headers)
        self.send_response(206 if ranged else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        one = [ranged, 0]
        asked.append(one)
        for at in range(begin, len(CONTENT), 1 << 16):
            self.wfile.write(CONTENT[at : at + (1 << 16)])
            one[1] += len(CONTENT[at : at + (1 << 16)])
            if slow.is_set():
                time.sleep(0.004)

    do_HEAD = do_GET


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args):
        pass  # the client that is killed


server, store = (Server(("127.0.0.1", 0), Hub) for _ in range(2))  # the hub, and the host that large files lie on
for one in (server, store):
    threading.Thread(target=one.serve_forever, daemon=True).start()
environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}"}
code = "from huggingface_hub import snapshot_download as f; f('someone/model', local_dir='D', max_workers=1)"
command = [sys.executable, "-c", code]
first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
until = time.monotonic() + 60
while not asked or asked[0][1] < 32 << 20:
    assert time.monotonic() < until and first.poll() is None, "the first download did not begin"
    time.sleep(0.01)
first.send_signal(signal.SIGKILL)
first.wait()
left = sorted(pathlib.Path("D/.cache/huggingface/download").rglob("*.incomplete"))
there = left[0].stat().st_size if left else 0
slow.clear()
before = len(asked)
subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
ranged, sent = asked[before]
print(f"killed with {there:,} bytes in {len(left)} file; the next call asked for Range {ranged} and was sent {sent:,}")
again = sorted(pathlib.Path("D/.cache/huggingface/download").rglob("*.incomplete"))
print(f"afterwards {len(again)} .incomplete file is left; the model is whole: {pathlib.Path('D', NAME).read_bytes() == CONTENT}")
assert pathlib.Path("D", NAME).read_bytes() == CONTENT
assert there >= 8 << 20 and ranged is None and sent == len(CONTENT) and again == left, "it resumes now: not as described"
print("as stated: it begins anew")
PY
cd "$work"
export HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 HF_HOME="$work/home"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
