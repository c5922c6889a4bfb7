"""The part of the Hugging Face hub's HTTP interface by which huggingface_hub downloads a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"


class Hub:
    """One repository, `org/Tiny`, at one commit, which `main` means; on the loopback, until the block ends."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.downloaded: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.partition("?")[0].strip("/")
                about = [
                    {"type": "file", "path": name, "size": len(raw), "oid": _oid(raw)} for name, raw in files.items()
                ]
                if path in (
                    "api/models/org/Tiny",
                    *(f"api/models/org/Tiny/revision/{each}" for each in ("main", COMMIT)),
                ):
                    siblings = [{"rfilename": name} for name in files]
                    self._json({"id": "org/Tiny", "sha": COMMIT, "siblings": siblings, "tags": []})
                elif path == f"api/models/org/Tiny/tree/{COMMIT}":
                    self._json(about)
                elif path.startswith(f"org/Tiny/resolve/{COMMIT}/"):
                    name = path.partition(f"{COMMIT}/")[2]
                    if self.command == "GET":
                        hub.downloaded.append(name)
                    self._send(200, files[name], {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": COMMIT})
                else:
                    self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

            def _json(self, document: object) -> None:
                self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

            def _send(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
                self.send_response(code)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _oid(raw: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
