"""The one way in: ASGI middleware around everything that the app serves."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from bluelm.api import json_error
from bluelm.api.body import MAX_BYTES
from bluelm.api.errors import Refusal
from bluelm.api.trace import NAMED
from bluelm.auth import login
from bluelm.auth.door import Admitted, Door, set_cookie
from bluelm.auth.headers import with_security
from bluelm.auth.sessions import LASTS_S, Session
from bluelm.auth.start import Listening
from bluelm.auth.words import language
from bluelm.config import Settings
from bluelm.errors import BlueLMError, Forbidden, TooManyAttempts, Unauthorized
from bluelm.guest import SCOPE_KEY, Guest

OPEN = ("/health", "/health/live", "/health/ready")
FORM_BYTES = 16 * 2**10
BODY_BYTES = 2 * MAX_BYTES  # the API itself refuses from MAX_BYTES on
LONG_BYTES = 2**20  # a body of less comes in with its request
UPLOADS = "/_stcore/upload_file/"
UPLOAD_BYTES = 65 * 2**20  # the largest file of conversations, and the form around it
READS = ("GET", "HEAD", "OPTIONS")


class Gate:
    """Around the app: whoever is not let in gets the page to sign in, 401, 403 or 429 (programs: in their API's shape).

    inline: hashes of the scripts that the pages themselves hold, as a content security policy names them.
    """

    def __init__(self, app: Any, settings: Settings, listening: Listening, inline: str = "") -> None:
        self.app = app
        self.door = Door(settings, listening)
        self._inline = inline
        self._ended: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, with_security(scope, send, self._inline))

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        body = _Body(scope, receive, send)
        receive, send = body.receive, body.send
        try:
            if path in OPEN:
                await self._health(scope, receive, send)
            elif self.door.locked and path in ("/login", "/logout"):
                page = self._sign_in if path == "/login" else self._sign_out
                await (await page(scope, Request(scope, receive)))(scope, receive, send)
            else:
                admitted = self.door.admit(scope)
                body.check_length()
                await self._serve(admitted, scope, receive, send)
                body.check_length()
        except ClientDisconnect:  # which is what the app sees of a body that is cut off here
            if not body.too_large:
                raise
            await (await self._refusal(scope, body.fault()))(scope, receive, send)
        except (BlueLMError, Refusal) as error:
            await (await self._refusal(scope, error))(scope, receive, send)

    async def _health(self, scope: Any, receive: Any, send: Any) -> None:
        """Open to everybody; who is let in is told more."""
        try:
            guest: Guest | None = self.door.admit(scope).guest
        except BlueLMError:
            guest = None
        scope[SCOPE_KEY] = guest
        await self.app(scope, receive, send)

    async def _serve(self, admitted: Admitted, scope: Any, receive: Any, send: Any) -> None:
        guest, session = admitted.guest, admitted.session
        scope[SCOPE_KEY] = guest  # in place: Traced reads from it which route it was
        if guest.name:
            scope[NAMED] = guest.name
        if session is not None:
            if session.secure:
                scope["scheme"] = "https"  # so it was as the browser signed in, whatever a proxy makes of it
            send = self._renewing(session, scope, send)
        if scope["method"] in READS:
            await self.app(scope, receive, send)
            return
        self.door.meter.enter(guest)
        try:
            await self.app(scope, receive, send)
        finally:
            self.door.meter.leave(guest)

    async def _websocket(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            admitted = self.door.admit(scope)
        except BlueLMError:
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: HTTP 403
            return
        # Streamlit's own check knows neither our public addresses nor proxies: it sees a page of this very address.
        scope |= {SCOPE_KEY: admitted.guest, "headers": _as_own_page(scope["headers"])}
        if (session := admitted.session) is None:
            await self.app(scope, receive, send)
            return
        ended = asyncio.Event()
        self._ended[session.id].add(ended)
        line = _Line(receive, send, ended, session.ends)
        try:
            await self.app(scope, line.receive, send)
        finally:
            line.close()
            self._ended[session.id].discard(ended)
            if not self._ended[session.id]:
                del self._ended[session.id]

    # --- pages to sign in and out ---

    async def _sign_in(self, scope: Any, request: Request) -> Response:
        query = request.query_params
        say, back = _language(request.headers, query), login.safe_path(query.get("next", "/"))
        if request.method in ("GET", "HEAD"):
            if self.door.session(request.headers) is not None:
                return RedirectResponse(back, 303)
            return login.sign_in(say, back)
        if not self.door.asked_by_our_page(scope, request.headers):
            return login.sign_in(say, back, "foreign", 403, origin=request.headers.get("origin", ""))
        form = await _form(request)
        say, back = form.get("lang", say), login.safe_path(form.get("next", "/"))
        say = language("", say)
        try:
            cookie = self.door.sign_in(scope, form.get("passcode", ""))
        except TooManyAttempts as error:
            response: Response = login.sign_in(say, back, "wait", 429, seconds=error.details["retry_after"])
            response.headers["Retry-After"] = str(error.details["retry_after"])
            return response
        if cookie is None:
            return login.sign_in(say, back, "wrong", 401)
        response = RedirectResponse(back, 303, {"Cache-Control": "no-store"})
        response.headers.append("Set-Cookie", cookie)
        return response

    async def _sign_out(self, scope: Any, request: Request) -> Response:
        session = self.door.session(request.headers)
        if session is None:
            return RedirectResponse("/login", 303)
        if request.method in READS or not self.door.asked_by_our_page(scope, request.headers):
            return login.sign_out(_language(request.headers, request.query_params))
        self.door.sessions.end(session)
        for ended in self._ended.get(session.id, ()):
            ended.set()
        response = RedirectResponse("/login", 303, {"Cache-Control": "no-store"})
        response.headers.append("Set-Cookie", set_cookie(session.secure, "", 0))
        return response

    def _renewing(self, session: Session, scope: Any, send: Any) -> Any:
        """`send`, with a fresh cookie on the page itself where the browser's is getting old."""
        cookie = self.door.sessions.renewed(session) if scope["path"] == "/" and scope["method"] == "GET" else None
        if cookie is None:
            return send
        header = (b"set-cookie", set_cookie(session.secure, cookie, LASTS_S).encode())

        async def renewing(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        return renewing

    async def _refusal(self, scope: Any, error: Exception) -> Response:
        request = Request(scope)
        if _is_browsing(request):
            if isinstance(error, Unauthorized):
                asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return RedirectResponse(f"/login?next={quote(login.safe_path(asked), safe='')}", 303)
            if isinstance(error, Forbidden):
                return login.shut(_language(request.headers, request.query_params), error.message, error.status)
        response = await json_error(request, error)
        if isinstance(error, Unauthorized):
            response.headers["WWW-Authenticate"] = 'Bearer realm="BlueLM Chat"'
        return response


# --- what a request is held to ---


class _Body:
    """The two ends of a request whose body may only be so long. What stays unread of a long one ends the connection."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self._receive, self._send = receive, send
        self._limit = self._left = UPLOAD_BYTES if scope["path"].startswith(UPLOADS) else BODY_BYTES
        headers = Headers(scope=scope)
        stated = headers.get("content-length", "")
        self._stated = int(stated[:15]) if stated.isdecimal() else 0
        self._unread = self._stated > LONG_BYTES or "transfer-encoding" in headers
        self.too_large = self._stated > self._limit
        self._answered = False

    def check_length(self) -> None:
        """Raises Refusal (413) for a body that is too long, unless it was answered already."""
        if self.too_large and not self._answered:
            raise self.fault()

    def fault(self) -> Refusal:
        return Refusal(413, f"The body is larger than {self._limit} bytes: send a smaller one.", "body_too_large")

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._unread = self._unread and message.get("more_body", False)
            if self._left < 0:
                self.too_large = True
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            if self.too_large and message["status"] != 413:  # what the app says of a client that seems to be gone
                return
            self._answered = True
            if self._unread:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        if self._answered:
            await self._send(message)


class _Line:
    """The receiving end of a websocket, which closes when its session ends, by time or by signing out."""

    def __init__(self, receive: Any, send: Any, ended: asyncio.Event, ends: float) -> None:
        self._receive, self._send, self._ends = receive, send, ends
        self._over = asyncio.ensure_future(ended.wait())
        self._next: asyncio.Future[Any] | None = None

    async def receive(self) -> Any:
        self._next = self._next or asyncio.ensure_future(self._receive())
        left = max(0.0, self._ends - time.time())
        await asyncio.wait({self._next, self._over}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if self._next.done() and not self._over.done():
            done, self._next = self._next, None
            return done.result()
        await self._send({"type": "websocket.close", "code": 1008})
        return {"type": "websocket.disconnect", "code": 1008}

    def close(self) -> None:
        for waiting in (self._next, self._over):
            if waiting is not None:
                waiting.cancel()


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form; what is no such form has none."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_BYTES:
            return {}
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=10)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}


def _as_own_page(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    host = next((value for name, value in headers if name == b"host"), b"")
    return [(name, b"http://" + host if name == b"origin" else value) for name, value in headers]


def _is_browsing(request: Request) -> bool:
    """Whether a person looks at what comes back, and no program or script of a page."""
    wants_page = "text/html" in request.headers.get("accept", "")
    return request.method in ("GET", "HEAD") and wants_page and not request.url.path.startswith("/v1")


def _language(headers: Headers, query: QueryParams) -> str:
    return language(headers.get("accept-language", ""), query.get("lang", ""))
