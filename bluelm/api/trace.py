"""A request's id, from the client to the engine's log lines; and its own line in the log, and its count."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bluelm import logs, metrics
from bluelm.types import Caller

HEADER = "X-Request-Id"
NAMED = "bluelm.client"  # in the scope: the name of the key that a program showed, where keys are asked for
_KEY = "bluelm.request"
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # clients can make up others
_ROUTINE = ("/health", "/metrics", "/docs", "/openapi.json")  # asked for by machines all the time
log = logging.getLogger("bluelm.http")


class Traced:
    """ASGI middleware, the outermost: gives every request an id (the client's own if it is sane) and tells it back."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        id, begun, status = request_id(scope), time.monotonic(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (HEADER.lower().encode(), id.encode())]}
            await send(message)

        try:
            await self.app(scope, receive, told)
        finally:
            _note(scope, status or 499, time.monotonic() - begun)


def request_id(scope: MutableMapping[str, Any]) -> str:
    """The id of this request: what the client calls it, or a new one. The same at every call."""
    if _KEY not in scope:
        given = next((value for name, value in scope["headers"] if name == HEADER.lower().encode()), b"")
        sane = _SANE.fullmatch(given.decode("latin-1"))
        scope[_KEY] = sane[0] if sane else secrets.token_hex(8)
    return str(scope[_KEY])


def caller(request: Request) -> Caller:
    """Who asks. A program's share of the engine is its key's, or its address's where there are no keys."""
    share = request.scope.get(NAMED) or (request.client.host if request.client else "")
    return Caller(route_of(request.scope), request_id(request.scope), f"program {share}")


def route_of(scope: MutableMapping[str, Any]) -> str:
    """The path as the API declares it; "page" for everything that pages are made of."""
    return str(getattr(scope.get("route"), "path", "") or "page") if "endpoint" in scope else "page"


def _note(scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
    route, method = route_of(scope), scope["method"] if scope["method"] in _METHODS else "other"
    metrics.count_http(route, method, status)
    ours = route != "page" and not route.startswith(_ROUTINE)
    client = scope.get("client") or ("",)
    logs.event(
        log, "request", level=logging.INFO if ours or status in (401, 403, 429) or status >= 500 else logging.DEBUG,
        request=request_id(scope), method=method, route=route, status=status, seconds=seconds, client=client[0],
        key=scope.get(NAMED),
    )  # fmt: skip
