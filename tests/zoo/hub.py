"""As much of the Hugging Face Hub as pushing a model and getting it back takes, on this machine."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 40
REPOSITORY = r"(?P<repository>[^/]+/[^/]+)"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a table of files."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.unknown: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running() -> Iterator[Hub]:
    """A hub, for the duration."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.server.repositories.setdefault(name, {})
            self._json({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif re.fullmatch(rf"/api/models/{REPOSITORY}/preupload/main", self.path):
            how = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": file["path"], **how} for file in json.loads(body)["files"]]
            self._json({"files": files})
        elif found := re.fullmatch(rf"/api/models/{REPOSITORY}/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[found["repository"]][line["value"]["path"]] = content
            self._json({"success": True, "commitUrl": f"{self.server.address}/{found['repository']}/commit/{COMMIT}",
                        "commitOid": COMMIT, "hookOutput": ""})  # fmt: skip
        else:
            self._nothing()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(rf"/api/models/{REPOSITORY}(/revision/\w+)?", path):
            files = self.server.repositories.get(found["repository"])
            if files is None:
                self._nothing("RepoNotFound")
                return
            siblings = [{"rfilename": name} for name in files]
            self._json({"_id": "1", "id": found["repository"], "sha": COMMIT, "tags": [], "siblings": siblings})
        elif found := re.fullmatch(rf"/api/models/{REPOSITORY}/tree/\w+", path):
            files = self.server.repositories[found["repository"]]
            self._json([{"type": "file", "path": name, "size": len(data), "oid": _oid(data)} for name, data in files.items()])
        elif found := re.fullmatch(rf"/{REPOSITORY}/resolve/\w+/(?P<file>.+)", path):
            data = self.server.repositories.get(found["repository"], {}).get(found["file"])
            if data is None:
                self._nothing("EntryNotFound")
            else:
                self._send(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT})
        else:
            self._nothing()

    do_HEAD = do_GET

    def _json(self, answer: Any) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _nothing(self, code: str = "") -> None:
        if not code:
            self.server.unknown.append(f"{self.command} {self.path}")
        self._send(404, b"{}", {"X-Error-Code": code} if code else {})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
