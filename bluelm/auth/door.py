"""Who somebody is, and whether they may come in: by a key, the passcode, or the cookie of a browser that signed in."""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from bluelm.auth.attempts import Attempts, address_group
from bluelm.auth.keys import KeyFile, Meter
from bluelm.auth.origins import Origins, is_loopback
from bluelm.auth.sessions import LASTS_S, Session, Sessions
from bluelm.auth.start import SET_ONE, Listening, check, public_urls
from bluelm.config import ROOT, Settings
from bluelm.errors import Forbidden, Unauthorized
from bluelm.guest import Guest

log = logging.getLogger(__name__)

COOKIE, SECURE_COOKIE = "bluelm_session", "__Host-bluelm_session"  # the latter: no other name of a domain can set it
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


@dataclass(frozen=True, slots=True)
class Admitted:
    """Somebody at the door. session: a browser's. by_key: a program showed a key, so no other site can be behind it."""

    guest: Guest
    session: Session | None = None
    by_key: bool = False


class Door:
    """All that is known of who may come in. It lives in the event loop. Raises SettingError (see start.check)."""

    def __init__(self, settings: Settings, listening: Listening) -> None:
        check(settings, listening)
        self._passcode = settings.passcode.get_secret_value()
        self._digest = hashlib.sha256(self._passcode.encode()).digest()
        self.origins = Origins(public_urls(settings, listening))
        self.sessions = Sessions(ROOT / settings.data, self._passcode)
        self.attempts = Attempts()
        self.keys = KeyFile(ROOT / settings.keys if settings.keys else None)
        self.meter = Meter()

    @property
    def locked(self) -> bool:
        return bool(self._passcode)

    def admit(self, scope: Any) -> Admitted:
        """Who asks. Raises Unauthorized, Forbidden or TooManyAttempts."""
        headers = Headers(scope=scope)
        if not self.locked:
            self._must_be_of_this_machine(scope, headers)
            admitted = Admitted(Guest())
        elif (key := _bearer(headers)) is not None:
            admitted = Admitted(self._by_key(scope, key), by_key=True)
        elif (session := self.session(headers)) is not None:
            admitted = Admitted(Guest(), session)
        else:
            raise Unauthorized()
        if not admitted.by_key:
            self._must_be_our_page(scope, headers)
        return admitted

    def session(self, headers: Headers) -> Session | None:
        """The session of a browser's cookie."""
        found = (self.sessions.find(value) for value in _cookies(headers))
        return next((session for session in found if session is not None), None)

    def sign_in(self, scope: Any, passcode: str) -> str | None:
        """The Set-Cookie header for the right passcode, None for a wrong one. Raises TooManyAttempts."""
        headers = Headers(scope=scope)
        before = (self.sessions.known(value) for value in _cookies(headers))
        known = next((session for session in before if session is not None), None)
        who = f"browser {known.id}" if known else f"page {_address(scope)}"
        if not self._right(scope, who, passcode, known=known is not None):
            return None
        secure = scope["scheme"] == "https" or headers.get("origin", "").lower().startswith("https://")
        session, cookie = self.sessions.begin(secure=secure)
        return set_cookie(session.secure, cookie, LASTS_S)

    def asked_by_our_page(self, scope: Any, headers: Headers) -> bool:
        """Whether no other site has its visitor's browser ask. A program, which no site can steer, names no origin."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        return self.origins.allows_origin(origin, headers.get("host"), scope["scheme"])

    # --- inside ---

    def _must_be_of_this_machine(self, scope: Any, headers: Headers) -> None:
        """Without a passcode: no proxy in between, no name of a stranger's, no other way in than loopback."""
        if any(name in headers for name in FORWARDED):
            raise Forbidden(f"This came through a proxy, and the app has no passcode: {SET_ONE}.")
        if not is_loopback((scope.get("server") or ("127.0.0.1",))[0]):
            raise Forbidden(f"This came from another machine, and the app has no passcode: {SET_ONE}.")
        if not self.origins.allows_host(headers.get("host")):
            raise Forbidden(
                "Without a passcode the app is found under 127.0.0.1 and localhost only, so that no other site can "
                f"pass for it: use one of these, or {SET_ONE}."
            )

    def _must_be_our_page(self, scope: Any, headers: Headers) -> None:
        steers = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if steers and not self.asked_by_our_page(scope, headers):
            raise Forbidden(
                "Another site asked for this in your browser's name. If it is this app behind a proxy, set "
                "BLUELM_PUBLIC_URL to the address that the browser shows (https://name:port) and start it again."
            )

    def _by_key(self, scope: Any, key: str) -> Guest:
        if (guest := self.keys.find(key)) is not None:
            return guest
        if self._right(scope, f"program {_address(scope)}", key):
            return Guest()
        raise Unauthorized()

    def _right(self, scope: Any, who: str, passcode: str, *, known: bool = False) -> bool:
        self.attempts.check(who, known=known)
        given = hashlib.sha256(passcode.encode("utf-8", "surrogatepass")).digest()
        if hmac.compare_digest(given, self._digest):
            self.attempts.succeeded(who)
            return True
        row = self.attempts.failed(who, known=known)
        log.warning("A wrong passcode or key from %s (%d in a row).", _address(scope), row)
        return False


def set_cookie(secure: bool, value: str, seconds: int) -> str:
    name = SECURE_COOKIE if secure else COOKIE
    return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"


def _bearer(headers: Headers) -> str | None:
    """The key that a program shows. Other schemes are a proxy's own (Basic, say), and mean nothing here."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _address(scope: Any) -> str:
    return address_group((scope.get("client") or ("",))[0])


def _cookies(headers: Headers) -> list[str]:
    """Read by hand: other programs of this host set cookies that a stricter reader stops at."""
    pairs = [part.strip().partition("=") for line in headers.getlist("cookie") for part in line.split(";")]
    return [value for wanted in (SECURE_COOKIE, COOKIE) for name, _, value in pairs if name == wanted]
