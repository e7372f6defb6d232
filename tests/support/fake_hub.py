"""A Hugging Face Hub with one public data set, own/data, over HTTP on this machine: what `datasets` asks when it streams one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


@contextmanager
def serve_hub(files: dict[str, bytes]) -> Iterator[str]:
    """Serve the files as the data set own/data; yields the address for HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self._answer(json.dumps([self._entry(path) for path in asked.get("paths", ()) if path in self.files]).encode())

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if re.fullmatch(r"/api/datasets/own/data(/revision/\w+)?", path):
            named = [{"rfilename": name} for name in self.files]
            about = {"id": "own/data", "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": named}
            self._answer(json.dumps({**about, "lastModified": "2026-01-01T00:00:00.000Z", "downloads": 0, "likes": 0}).encode())
        elif path.startswith("/api/datasets/own/data/tree"):
            self._answer(json.dumps([self._entry(name) for name in self.files]).encode())
        elif (found := re.fullmatch(r"/datasets/own/data/resolve/\w+/(.*)", path)) and found[1] in self.files:
            self._send_file(self.files[found[1]])
        else:
            self._answer(b"{}", 404, X_Error_Code="EntryNotFound")

    def _entry(self, name: str) -> dict[str, Any]:
        return {"type": "file", "oid": "b" * 40, "size": len(self.files[name]), "path": name}

    def _send_file(self, body: bytes) -> None:
        about = {"ETag": '"x"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), int(asked[2] or len(body) - 1)
            part = body[start : end + 1]
            self._answer(part, 206, **about, Content_Range=f"bytes {start}-{start + len(part) - 1}/{len(body)}")
        else:
            self._answer(body, **about)

    def _answer(self, body: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content_Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
