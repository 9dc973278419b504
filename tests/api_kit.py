"""The API in this process, without a server: the FastAPI app over a FakeEngine, spoken to through ASGI."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from fastapi import FastAPI

from bluelm.api import create_api
from bluelm.api.trace import Traced
from tests.fakes import FakeEngine

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


class Api:
    """An API and its engine. Every call opens a client of its own; errors inside the app are raised here."""

    def __init__(self, engine: FakeEngine | None = None) -> None:
        self.engine = engine or FakeEngine()
        self.app: FastAPI = create_api(lambda: self.engine)
        self.asgi = Traced(self.app)

    def get(self, path: str) -> httpx.Response:
        return self.send("GET", path)

    def post(self, path: str, body: Any) -> httpx.Response:
        """`body`: bytes as they are, anything else as JSON (half characters as their escapes)."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, content=content)

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.asgi)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **more)

        return asyncio.run(sent())

    def chat(self, *said: str, **more: Any) -> httpx.Response:
        return self.post(CHAT, {"messages": [{"role": "user", "content": one} for one in said], **more})


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream: JSON each, but for the text "[DONE]"."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def refused(answer: Any, status: int = 400) -> dict[str, Any]:
    """The error of an answer, having checked its shape."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] and error["code"]
    return dict(error)


class Hangup:
    """A client that sends one request over raw ASGI, reads until `after` body messages came, and hangs up."""

    def __init__(self, api: Api, path: str, body: dict[str, Any], *, after: int = 0) -> None:
        self.api, self.path, self.body, self.after = api, path, json.dumps(body).encode(), after
        self.sent: list[Any] = []

    async def run(self, *, gone_after_s: float = 0.0) -> None:
        gone, bodies = asyncio.Event(), 0
        requests = [{"type": "http.request", "body": self.body, "more_body": False}]

        async def receive() -> Any:
            if requests:
                return requests.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal bodies
            self.sent.append(message)
            bodies += message["type"] == "http.response.body"
            if self.after and bodies >= self.after:
                gone.set()

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
            "path": self.path, "raw_path": self.path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "headers": [(b"host", b"test")], "client": ("127.0.0.1", 1), "server": ("test", 80), "state": {},
        }  # fmt: skip
        if not self.after:
            asyncio.get_running_loop().call_later(gone_after_s, gone.set)
        await asyncio.wait_for(self.api.asgi(scope, receive, send), 10)
