"""The gate by itself, around an app of three lines: what no server on loopback can show."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bluelm.auth import Gate, Listening
from bluelm.auth import sessions as sessions_module
from bluelm.config import load_settings

PASSCODE = "open-sesame-1"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers 200; a websocket is open until its line is gone."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


def scope(**more: Any) -> dict[str, Any]:
    basic = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "scheme": "http"}
    return {
        **basic,
        "server": ("127.0.0.1", 6006),
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"127.0.0.1")],
        **more,
    }


def status(gate: Gate, asked: dict[str, Any]) -> int:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(gate(asked, receive, send))
    return int(sent[0]["status"])


def gate(tmp_path: Path, **settings: str) -> Gate:
    return Gate(echo, load_settings(data=str(tmp_path), **settings), Listening("127.0.0.1", 6006))


def test_another_machine_is_refused_however_the_server_came_to_listen_there(tmp_path: Path) -> None:
    """`uvicorn app:app --host 0.0.0.0` tells the app nothing: each connection does."""
    shut = gate(tmp_path)
    assert status(shut, scope()) == 200
    assert status(shut, scope(server=("10.0.0.5", 6006), headers=[(b"host", b"10.0.0.5:6006")])) == 403
    assert status(gate(tmp_path, passcode=PASSCODE), scope(server=("10.0.0.5", 6006))) == 401


def test_an_open_page_ends_with_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "LASTS_S", 1)
    shut = gate(tmp_path, passcode=PASSCODE)
    _, cookie = shut.door.sessions.begin(secure=False)
    headers = [
        (b"host", b"127.0.0.1"),
        (b"origin", b"http://127.0.0.1"),
        (b"cookie", f"bluelm_session={cookie}".encode()),
    ]
    sent: list[dict[str, Any]] = []

    async def talk() -> None:
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await asyncio.sleep(3600)
            asked = True
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await asyncio.wait_for(shut(scope(type="websocket", path="/_stcore/stream", headers=headers), receive, send), 5)

    asyncio.run(talk())
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
