"""The file of keys for programs: a name and limits for each. It holds digests; a key is shown once, when it is made.

[alice]
sha256 = "..."              # python -m bluelm.auth alice   makes a key and says what to write here
requests_per_minute = 60    # each limit may be left out
simultaneous = 4
max_tokens = 1024           # new tokens of one answer
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from bluelm.errors import RateLimited, SettingError
from bluelm.guest import Guest

log = logging.getLogger(__name__)

PREFIX = "sk-bluelm-"
LIMITS = ("requests_per_minute", "simultaneous", "max_tokens")
LOOK_EVERY_S = 1.0


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(file: Path) -> dict[str, Guest]:
    """The guests by the digest of their key. Raises SettingError, which names what is wrong."""
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"The key file {file} cannot be read ({error}): correct it, or BLUELM_KEYS.") from None
    guests: dict[str, Guest] = {}
    for name, given in found.items():
        guest = _guest(file, name, given)
        if given["sha256"] in guests:
            raise SettingError(f"In {file}, {name} has the key of {guests[given['sha256']].name}: make one of its own.")
        guests[given["sha256"]] = guest
    return guests


def _guest(file: Path, name: str, given: Any) -> Guest:
    remedy = f"write what `python -m bluelm.auth {name}` says."
    if not isinstance(given, dict) or not re.fullmatch(r"[0-9a-f]{64}", str(given.get("sha256", ""))):
        raise SettingError(f'In {file}, {name} needs sha256 = "..." with 64 hexadecimal digits: {remedy}')
    for limit, value in given.items():
        if limit == "sha256":
            continue
        if limit not in LIMITS:
            raise SettingError(f"In {file}, {name}.{limit} is unknown: known are sha256, {', '.join(LIMITS)}.")
        if type(value) is not int or not 1 <= value <= 10**9:
            raise SettingError(f"In {file}, {name}.{limit} is {value!r}: it must be a whole number from 1.")
    return Guest(name, *(given.get(limit) for limit in LIMITS))


class KeyFile:
    """The keys as the file has them now: a key that is taken out is no good within a second, without a new start."""

    def __init__(self, file: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock = file, clock
        self._guests = {} if file is None else read_keys(file)
        self._seen, self._look_at = self._stamp(), clock() + LOOK_EVERY_S

    def find(self, key: str) -> Guest | None:
        self._look()
        given = digest(key).encode()
        matching = [guest for known, guest in self._guests.items() if hmac.compare_digest(known.encode(), given)]
        return matching[0] if matching else None

    def _look(self) -> None:
        if self._file is None or self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_EVERY_S
        if (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        try:
            self._guests = read_keys(self._file)
        except SettingError as error:  # a file half written must not lock programs out
            log.warning("%s The keys stay as they were.", error.message)

    def _stamp(self) -> object:
        try:
            return self._file and ((found := self._file.stat()).st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            return None


@dataclass(slots=True)
class _Use:
    running: int = 0
    room: float = 0.0
    at: float = 0.0


class Meter:
    """Counts what each key asks for. Not thread-safe: it lives in the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def enter(self, guest: Guest) -> None:
        """A request begins. Raises RateLimited where it is one too many; else `leave` must follow."""
        use = self._uses.setdefault(guest.name, _Use(room=float(guest.requests_per_minute or 0), at=self._clock()))
        if guest.simultaneous is not None and use.running >= guest.simultaneous:
            raise RateLimited(f"{guest.name} may have {guest.simultaneous} requests running at a time", 1)
        if (limit := guest.requests_per_minute) is not None:
            now = self._clock()
            use.room, use.at = min(limit, use.room + (now - use.at) * limit / 60), now
            if use.room < 1:
                raise RateLimited(f"{guest.name} may send {limit} requests a minute", ceil((1 - use.room) * 60 / limit))
            use.room -= 1
        use.running += 1

    def leave(self, guest: Guest) -> None:
        self._uses[guest.name].running -= 1
