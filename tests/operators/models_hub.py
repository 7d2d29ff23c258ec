"""A small Hub on this machine: enough of its web interface for a pull, with real files behind it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(repos: dict[str, dict[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve `repos` (name to file name to content); yields the address and the list of files that were sent."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            parts = path.split("/")
            if parts[:2] == ["api", "models"] and (files := repos.get("/".join(parts[2:4]))) is not None:
                listing = [
                    {"rfilename": n, "size": len(c), "blobId": "0" * 40, "lfs": {"size": len(c), "sha256": digest(c), "pointerSize": 1}}
                    for n, c in files.items()
                ]
                return self.reply(200, json.dumps({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": listing}).encode(), {}, body)
            files = repos.get("/".join(parts[:2]), {})
            name = "/".join(parts[4:])
            if parts[2:3] == ["resolve"] and name in files:
                if body:
                    sent.append(name)
                return self.reply(200, files[name], {"ETag": f'"{digest(files[name])}"', "X-Repo-Commit": COMMIT}, body)
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

        def reply(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
