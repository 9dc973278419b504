"""Who a browser is: an unguessable name in a cookie, given with the page, and nothing more is known of anybody."""

from __future__ import annotations

import re
import secrets
from collections.abc import MutableMapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import Any

COOKIE = "bluelm_owner"
LASTS_S = 400 * 24 * 3600  # the longest that browsers keep one
_NAME = re.compile(r"[A-Za-z0-9_-]{32}")

Scope = MutableMapping[str, Any]


def owner_of(cookie: str | None) -> str | None:
    """The owner's id, as conversations are kept under it: not the cookie itself, which a copied file would give away.

    None for a cookie that was not given out here.
    """
    if cookie is None or not _NAME.fullmatch(cookie):
        return None
    return sha256(cookie.encode()).hexdigest()[:32]


class OwnerCookie:
    """ASGI middleware: a browser that opens a page without the cookie gets one; scripts cannot read it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or owner_of(_cookie(scope)) is not None:
            await self.app(scope, receive, send)
            return

        async def with_cookie(message: Scope) -> None:
            if message["type"] == "http.response.start" and _is_page(message):
                message = {**message, "headers": [*message["headers"], (b"set-cookie", _new(scope).encode())]}
            await send(message)

        await self.app(scope, receive, with_cookie)


def _cookie(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                if found := SimpleCookie(value.decode("latin-1")).get(COOKIE):
                    return found.value
            except CookieError:  # somebody else's
                continue
    return None


def _is_page(message: Scope) -> bool:
    kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
    return message["status"] in (200, 304) and any(kind.startswith(b"text/html") for kind in kinds)


def _new(scope: Scope) -> str:
    secure = "; Secure" if scope["scheme"] == "https" else ""
    return f"{COOKIE}={secrets.token_urlsafe(24)}; Path=/; Max-Age={LASTS_S}; HttpOnly; SameSite=Lax{secure}"
