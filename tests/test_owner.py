"""The cookie that tells one browser from another: given with a page, once, and never guessed or made up."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from bluelm.owner import COOKIE, OwnerCookie, owner_of

APP = OwnerCookie(
    Starlette(
        routes=[
            Route("/", lambda request: HTMLResponse("page"), methods=["GET", "POST"]),
            Route("/health", lambda request: JSONResponse({})),
        ]
    )
)


def get(path: str = "/", method: str = "GET", **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://app") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(ask())


def test_a_page_gives_a_new_browser_a_cookie_that_scripts_cannot_read() -> None:
    given = get().headers["set-cookie"]
    assert "HttpOnly" in given and "SameSite=Lax" in given and "Path=/" in given
    value = re.match(f"{COOKIE}=([^;]+);", given)
    assert value is not None and owner_of(value[1]) is not None
    assert get().headers["set-cookie"] != given


def test_a_browser_that_has_one_keeps_it() -> None:
    cookie = get().headers["set-cookie"].split(";")[0]
    assert "set-cookie" not in get(cookie=cookie).headers
    assert "set-cookie" not in get(cookie=f"other=1; {cookie}").headers


@pytest.mark.parametrize("cookie", ["", f"{COOKIE}=short", f"{COOKIE}={'/' * 32}", "a b;;=", f"{COOKIE}={'x' * 33}"])
def test_what_was_not_given_out_here_is_replaced(cookie: str) -> None:
    assert COOKIE in get(cookie=cookie).headers["set-cookie"]


def test_programs_get_no_cookie() -> None:
    assert "set-cookie" not in get("/health").headers and "set-cookie" not in get(method="POST").headers


def test_the_owner_is_not_the_cookie() -> None:
    cookie = "a" * 32
    assert owner_of(cookie) == owner_of(cookie) != owner_of("b" * 32)
    assert cookie not in str(owner_of(cookie)) and owner_of(None) is None
