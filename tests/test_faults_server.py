"""What may befall the server: clients that leave or stand still at any moment, its end by a signal, a taken port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from bluelm.api import serving
from tests.api_kit import CHAT, Api
from tests.fakes import FakeEngine
from tests.servers import ROOT, Server, serve

BODY = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
WORDS = [f"w{i} " for i in range(30)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(answer=WORDS, pause=0.05) as server:
        yield server


def raw(server: Server, *, length: int | None = None) -> bytes:
    body = json.dumps(BODY).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {server.url[7:]}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


def handles(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def in_mid_stream(server: Server, line: socket.socket) -> None:
    line.sendall(raw(server))
    line.recv(500)
    time.sleep(0.15)


STAGES: dict[str, Callable[[Server, socket.socket], None]] = {
    "before it asks": lambda server, line: None,
    "within the headers": lambda server, line: line.sendall(raw(server)[:40]),
    "within the body": lambda server, line: line.sendall(raw(server, length=5000)),
    "before the first word": lambda server, line: line.sendall(raw(server)),
    "in mid-stream": in_mid_stream,
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_may_leave_at_any_moment(server: Server, stage: str, reset: bool) -> None:
    httpx.get(server.url + "/health")
    before = handles(server)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as line:
            STAGES[stage](server, line)
            if reset:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.wait_idle()
    until(lambda: handles(server) <= before)
    assert server.health()["status"] == "ok"


def test_a_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer ends and nothing is kept for it; a reader that is merely slow gets everything."""
    monkeypatch.setattr(serving, "SEND_S", 0.2)
    api = Api(FakeEngine(lambda *_: ("x " for _ in range(10**6)), pause=0.001))
    sent: list[bytes] = []

    async def receive() -> Any:
        if not sent:
            return {"type": "http.request", "body": json.dumps(BODY).encode(), "more_body": False}
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        await asyncio.sleep(0.05 if len(sent) < 5 else 3600)

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
        "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "root_path": "", "scheme": "http",
        "headers": [(b"host", b"test"), (b"content-type", b"application/json")], "client": ("127.0.0.1", 1),
        "server": ("test", 80), "state": {},
    }  # fmt: skip

    asyncio.run(asyncio.wait_for(api.asgi(scope, receive, send), 5))
    end = time.monotonic() + 2
    while api.engine.running and time.monotonic() < end:
        time.sleep(0.005)
    assert not api.engine.running and len(sent) == 5


def test_clients_that_read_nothing_keep_neither_answers_nor_handles_nor_memory(server: Server) -> None:
    """Over real sockets, filled to the last: they are closed while their clients still hold on to them."""
    httpx.get(server.url + "/health")
    before, size = handles(server), resident(server)
    server.fake(endless="x" * 20_000, pause=0.002, send_s=0.3)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            line = stack.enter_context(socket.socket())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            line.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
            line.sendall(raw(server))
        until(lambda: server.health()["running"] == 8)
        server.wait_idle()
        until(lambda: handles(server) <= before)
        assert resident(server) < size + 40 * 2**20
    server.fake(answer=WORDS, pause=0.05, send_s=30.0)


def test_a_connection_that_was_idle_is_answered_for_longer_than_clients_keep_theirs(server: Server) -> None:
    """Where both ends let go of it after 5 s, as httpx and uvicorn do, some requests are lost."""
    with contextlib.closing(HTTPConnection("127.0.0.1", int(server.url.rsplit(":", 1)[1]), timeout=5)) as line:
        for pause in (0.0, 6.0):
            time.sleep(pause)
            line.putrequest("GET", "/health/live")  # `request` would connect again
            line.endheaders()
            with line.getresponse() as answer:
                assert answer.status == 200 and answer.read()
            assert line.sock is not None
            line.auto_open = 0


def until(reached: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def resident(server: Server) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def stream(server: Server, told: list[str], begun: threading.Event) -> None:
    with httpx.stream("POST", server.url + CHAT, json=BODY, timeout=30) as answer:
        for line in answer.iter_lines():
            told.append(line)
            if len(told) > 3:
                begun.set()


@pytest.mark.parametrize(("drain_s", "whole"), [("8", True), ("0.3", False)])
def test_at_sigterm_open_answers_may_end_for_a_bounded_time(drain_s: str, whole: bool) -> None:
    with serve(answer=WORDS * (1 if whole else 100), pause=0.04, env={"BLUELM_DRAIN_S": drain_s}) as server:
        told: list[str] = []
        begun = threading.Event()
        reader = threading.Thread(target=stream, args=(server, told, begun))
        reader.start()
        assert begun.wait(10)
        ended = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        reader.join(10)
        last = [line for line in told if line][-1]
        assert (last == "data: [DONE]") if whole else ("error" in last and "[DONE]" not in last), told[-4:]
        code = server.process.wait(10)
        assert time.monotonic() - ended < 8, "neither the whole bound nor the whole answer"
        assert code in (0, -signal.SIGTERM), server.log()
        assert "Traceback" not in server.log()


def test_a_taken_port_is_told_and_ends_the_start(server: Server) -> None:
    port = server.url.rsplit(":", 1)[1]
    second = subprocess.run(
        [sys.executable, "-m", "tests.servers", "--port", port, "--engine", "fake"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode not in (0, None) and port in second.stdout + second.stderr
    assert server.health()["status"] == "ok"
