"""A hub on loopback that speaks as much of both hubs' HTTP as their libraries need, and fails where it is told to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = {"main", "master", "v1", COMMIT}


@dataclass
class FakeHub:
    """What it has, how it fails, and what it was asked.

    repos: hub id -> file name -> content. Files of 1 MiB and more are "large": Hugging Face sends those from another
    address, by a redirect. cut: file -> after how many bytes the next answers break off, one after the other. stall:
    file -> after how many bytes the next answer stops for good. corrupt: file -> how many answers have a wrong byte.
    asked: (path, Range header) of each request. sent: bytes of each file that went out. agents: who asked.
    """

    repos: dict[str, dict[str, bytes]] = field(repr=False)
    cut: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    stall: dict[str, int] = field(default_factory=dict)
    corrupt: Counter[str] = field(default_factory=Counter)
    status: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    agents: set[str] = field(default_factory=set)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def ranges(self, name: str) -> list[str]:
        """The Range headers of the requests for a file's content ("" for the whole), in order."""
        return [asked for path, asked in self.asked if path.endswith(name) and "/resolve/" not in path]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub at hub.url until the block ends."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients are killed on purpose."""

    server = Server(("127.0.0.1", 0), type("HandlerOfThisHub", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, parts = self.hub, urlsplit(self.path)
        path, query = unquote(parts.path), {k: v[0] for k, v in parse_qs(parts.query).items()}
        shown = f"{path}:{query['FilePath']}" if "FilePath" in query else path
        hub.asked.append((shown, self.headers.get("Range", "")))
        hub.agents.add(self.headers.get("User-Agent", ""))
        with suppress(BrokenPipeError, ConnectionResetError):
            self.answer(path, query)

    def answer(self, path: str, query: dict[str, str]) -> None:
        if self.hub.status and path != "/":
            return self.json(self.hub.status, {"error": "out of order"})
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, path):
                return answer(self, self.hub, query, *found.groups())
        return self.json(200 if path == "/" else 404, {})

    def json(self, status: int, body: object, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def content(self, name: str, data: bytes) -> None:
        """A file, or the rest of it, with the failures that are due."""
        hub = self.hub
        start = int(found[1]) if (found := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if hub.corrupt[name] > 0:
            hub.corrupt[name] -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(data)
        stalled = hub.stall.pop(name, 0)
        if stalled or hub.cut[name]:
            end = min(end, start + (stalled or hub.cut[name].pop(0)))
        self.wfile.write(data[start:end])
        hub.sent[name] += end - start
        if stalled:
            hub.closing.wait()
        if end < len(data):
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


def _hf_info(handler: Any, hub: FakeHub, query: dict[str, str], id: str, revision: str) -> None:
    if id not in hub.repos:
        return handler.json(401, {"error": "Invalid username or password."})
    if revision not in REVISIONS:
        return handler.json(404, {"error": "Invalid rev"}, X_Error_Code="RevisionNotFound")
    files = hub.repos[id].items()
    body = {"_id": "0", "id": id, "sha": COMMIT, "tags": [], "siblings": [_sibling(n, d) for n, d in files]}
    return handler.json(200, body)


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data)}
    if is_large(data):
        return {**entry, "blobId": "0" * 40, "lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 134}}
    return {**entry, "blobId": hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()}


def _hf_file(handler: Any, hub: FakeHub, query: dict[str, str], id: str, revision: str, name: str) -> None:
    data = hub.repos.get(id, {}).get(name)
    if data is None or revision not in REVISIONS:
        return handler.json(404, {}, X_Error_Code="EntryNotFound")
    handler.send_response(302)
    handler.send_header("Location", f"{hub.url}/cdn/{id}/{name}")
    handler.send_header("X-Repo-Commit", COMMIT)
    handler.send_header("X-Linked-Size", str(len(data)))
    handler.send_header("X-Linked-ETag", f'"{sha256(data)}"')
    handler.send_header("Content-Length", "0")
    return handler.end_headers()


def _cdn(handler: Any, hub: FakeHub, query: dict[str, str], id: str, name: str) -> None:
    handler.content(name, hub.repos[id][name])


def _ms_list(handler: Any, hub: FakeHub, query: dict[str, str], id: str) -> None:
    if id not in hub.repos or query.get("Revision", "master") not in REVISIONS:
        return handler.json(404, {"Code": 10010205001, "Success": False, "Message": "not found"})
    files = [
        {"Path": n, "Name": n, "Size": len(d), "Sha256": sha256(d), "Type": "blob"} for n, d in hub.repos[id].items()
    ]
    folder = {"Path": "images", "Name": "images", "Size": 0, "Type": "tree"}
    return handler.json(200, {"Code": 200, "Success": True, "Data": {"Files": [folder, *files]}})


def _ms_file(handler: Any, hub: FakeHub, query: dict[str, str], id: str) -> None:
    data = hub.repos.get(id, {}).get(query.get("FilePath", ""))
    if data is None:
        return handler.json(404, {"Code": 404, "Success": False, "Message": "no such file"})
    return handler.content(query["FilePath"], data)


ROUTES: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"/api/models/([^/]+/[^/]+)/revision/(.+)", _hf_info),
    (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _hf_file),
    (r"/cdn/([^/]+/[^/]+)/(.+)", _cdn),
    (r"/api/v1/models/([^/]+/[^/]+)/repo/files", _ms_list),
    (r"/api/v1/models/([^/]+/[^/]+)/repo", _ms_file),
)


def is_large(data: bytes) -> bool:
    return len(data) >= 1 << 20


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
