"""A stand-in for the Hugging Face hub: the part of its API that a push needs, on this machine, with what it received."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Hub", "hub_server"]

TOKEN = "hf_of_the_stand_in"
LARGE = (".safetensors", ".parquet")
"""Files that go through LFS, as `.gitattributes` of new repositories says."""


@dataclass
class Hub:
    """What a server holds: repositories by `models/OWNER/NAME` or `datasets/OWNER/NAME`, each with its files."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    forbidden: str = ""
    """An owner whose repositories this token may not write."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for each in files
            ]
            self._answer(200, {"files": modes})
        elif "/commit/" in path:
            self._commit(path.removeprefix("/api/").partition("/commit/")[0], body)
        else:
            self._answer(404, {"error": f"not of this stand-in: POST {path}"})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.objects[hashlib.sha256(body).hexdigest()] = body
        self._answer(200, {})

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/").partition("/revision/")[0]
        if name in self.hub.repositories:
            self._answer(200, {"id": name.partition("/")[2], "private": self.hub.private[name]})
        else:
            self._answer(404, {"error": f"not of this stand-in: GET {self.path}"})

    def _create(self, wanted: dict[str, Any]) -> None:
        kind, owner = wanted.get("type") or "model", wanted["organization"]
        if owner == self.hub.forbidden:
            self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
            return
        name = f"{kind}s/{owner}/{wanted['name']}"
        existed = name in self.hub.repositories
        if not existed:
            self.hub.repositories[name] = {}
            self.hub.private[name] = wanted.get("private") is True or wanted.get("visibility") == "private"
        self._answer(409 if existed else 200, {"url": f"{self.hub.url}/{name.removeprefix('models/')}"})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            {
                "oid": each["oid"],
                "size": each["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}},
            }
            for each in wanted["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        files = self.hub.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        self.hub.commits.append(name)
        self._answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running stand-in. Point the client to it with `HF_ENDPOINT`, or its `constants.ENDPOINT` in this process."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
