"""How often a wrong passcode may be tried: by one address, by one browser, and by all strangers together."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from bluelm.errors import TooManyAttempts

FREE = 5  # wrong ones in a row before the first wait
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 300.0  # doubling from one to the other
FORGOTTEN_AFTER_S = 3600.0
REMEMBERED = 10_000  # addresses
BURST, REFILL_PER_S = 60.0, 0.5  # of wrong ones, all strangers together


@dataclass(slots=True)
class _Record:
    failures: int = 0
    last: float = 0.0
    free_at: float = 0.0


class Attempts:
    """Not thread-safe: it lives in the event loop, and nothing may be awaited between `check` and what follows it.

    `who` is an address or, where `known`, a browser that has been signed in before. What strangers do together never
    holds up a known browser, nor a key of the key file (which is too long to be guessed and never comes here).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._room, self._room_at = BURST, clock()

    def check(self, who: str, *, known: bool = False) -> None:
        """Raises TooManyAttempts where the next try has to wait."""
        now = self._clock()
        record = self._records.get(who)
        wait = record.free_at - now if record is not None else 0.0
        if not known:
            self._refill(now)
            wait = max(wait, (1 - self._room) / REFILL_PER_S)
        if wait > 0:
            raise TooManyAttempts(ceil(wait))

    def failed(self, who: str, *, known: bool = False) -> int:
        """A wrong passcode; how many in a row it makes."""
        now = self._clock()
        record = self._records.setdefault(who, _Record())
        self._records.move_to_end(who)
        if now - record.last > FORGOTTEN_AFTER_S:
            record.failures = 0
        record.failures, record.last = record.failures + 1, now
        if record.failures >= FREE:
            record.free_at = now + min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(30, record.failures - FREE))
        if not known:
            self._refill(now)
            self._room = max(0.0, self._room - 1)
        while len(self._records) > REMEMBERED:
            self._records.popitem(last=False)
        return record.failures

    def succeeded(self, who: str) -> None:
        self._records.pop(who, None)

    def _refill(self, now: float) -> None:
        self._room = min(BURST, self._room + (now - self._room_at) * REFILL_PER_S)
        self._room_at = now


def address_group(address: str) -> str:
    """Those who count as one: an IPv4 address, or the /64 network that one customer has of IPv6."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
