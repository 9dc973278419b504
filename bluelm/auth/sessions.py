"""The cookies of browsers that have signed in: signed, with an end, and with keys that rotate.

A cookie says "key.end.session.https.signature" and nothing about anybody. The keys, and the sessions that were ended
before their time, lie in one file of the data folder that only its owner can read; where that cannot be written they
live as long as the process. The passcode goes into the signature: with another passcode everybody has to sign in anew.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FILE = "sessions.json"
LASTS_S = 30 * 86_400
RENEWED_AFTER_S = 86_400  # a browser in use never has to sign in again
KEY_LASTS_S = 7 * 86_400  # then a new one signs; the old one is good for what it has signed


@dataclass(frozen=True, slots=True)
class Session:
    """`ends` in seconds since 1970; `secure`: it was begun over https."""

    id: str
    ends: int
    secure: bool


@dataclass(frozen=True, slots=True)
class _Key:
    id: str
    made: float
    secret: bytes


class Sessions:
    """Not thread-safe: it lives in the event loop."""

    def __init__(self, folder: Path, passcode: str, clock: Callable[[], float] = time.time) -> None:
        self._path = folder / FILE
        self._passcode = hashlib.sha256(passcode.encode()).digest()
        self._clock = clock
        self._keys: list[_Key] = []
        self._ended: dict[str, int] = {}
        self._read()

    def begin(self, *, secure: bool) -> tuple[Session, str]:
        """A new session and its cookie's value."""
        session = Session(secrets.token_urlsafe(18), int(self._clock()) + LASTS_S, secure)
        return session, self._write_cookie(session)

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie; None for one that is not ours, has ended or was ended."""
        session = self.known(cookie)
        if session is None or session.ends <= self._clock() or session.id in self._ended:
            return None
        return session

    def known(self, cookie: str) -> Session | None:
        """The session that a cookie of ours was given for, even if it is over."""
        body, _, signature = cookie.rpartition(".")
        parts = body.split(".")
        if len(parts) != 4 or not cookie.isascii() or not parts[1].isdigit() or len(parts[1]) > 12:
            return None
        for key in self._keys:
            if key.id == parts[0] and hmac.compare_digest(self._sign(key, body).encode(), signature.encode()):
                return Session(parts[2], int(parts[1]), parts[3] == "s")
        return None

    def renewed(self, session: Session) -> str | None:
        """A fresh cookie for a session whose cookie is more than a day old, else None."""
        now = int(self._clock())
        if session.ends - now > LASTS_S - RENEWED_AFTER_S:
            return None
        return self._write_cookie(replace(session, ends=now + LASTS_S))

    def end(self, session: Session) -> None:
        """No cookie of this session is good any more, wherever it was copied to."""
        now = self._clock()
        self._ended = {id: ends for id, ends in self._ended.items() if ends > now}
        self._ended[session.id] = int(now) + LASTS_S
        self._save()

    # --- inside ---

    def _write_cookie(self, session: Session) -> str:
        key = self._current_key()
        body = f"{key.id}.{session.ends}.{session.id}.{'s' if session.secure else 'p'}"
        return f"{body}.{self._sign(key, body)}"

    def _sign(self, key: _Key, body: str) -> str:
        made = hmac.digest(key.secret, b"bluelm session\0" + self._passcode + body.encode(), "sha256")
        return base64.urlsafe_b64encode(made).rstrip(b"=").decode()

    def _current_key(self) -> _Key:
        now = self._clock()
        if not self._keys or not -60 < now - self._keys[-1].made < KEY_LASTS_S:
            kept = [key for key in self._keys if now - key.made < KEY_LASTS_S + LASTS_S]
            self._keys = [*kept, _Key(secrets.token_hex(4), now, secrets.token_bytes(32))]
            self._save()
        return self._keys[-1]

    def _read(self) -> None:
        try:
            found: dict[str, Any] = json.loads(self._path.read_text())
            self._keys = [_Key(k["id"], float(k["made"]), bytes.fromhex(k["secret"])) for k in found["keys"]]
            self._ended = {str(id): int(ends) for id, ends in found["ended"].items()}
            self._path.chmod(0o600)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s): everybody has to sign in again.", self._path, type(error).__name__)
            self._keys, self._ended = [], {}

    def _save(self) -> None:
        keys = [{"id": key.id, "made": key.made, "secret": key.secret.hex()} for key in self._keys]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=FILE)  # 0600 from the start
            with os.fdopen(handle, "w") as file:
                json.dump({"keys": keys, "ended": self._ended}, file)
            Path(name).replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s): browsers are signed in until the app ends.", self._path, error)
