"""From which addresses the app may be used: what Host and Origin of a request have to be.

A page of somebody else may send its visitors' browsers here (CSRF), or give its own name this machine's address (DNS
rebinding). The browser tells both: Origin names the page that asks, Host the name under which it found this app.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def is_loopback(host: str | None) -> bool:
    """Whether only programs of this machine reach that address."""
    if not host:
        return False
    if host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost"):
        return True
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and address.is_loopback


class Origins:
    """The addresses at which the app is to be found: `public` ones as https://name:port, and itself as Host says."""

    def __init__(self, public: Iterable[str]) -> None:
        self._public = {found for url in public if (found := origin(url)) is not None}
        self._names = {name for _, name, _ in self._public}

    def allows_origin(self, given: str, host: str | None, scheme: str) -> bool:
        """Whether a page of this origin may use the app that was found under `host`.

        A proxy may have taken TLS off: a page over https may find an app that sees http, but never the other way round.
        """
        asking = origin(given)
        if asking is None or not host:
            return False
        if asking in self._public:
            return True
        return asking == origin(f"{asking[0]}://{host}") and not (asking[0] == "http" and scheme in ("https", "wss"))

    def allows_host(self, host: str | None) -> bool:
        """Whether the name is no stranger's: an address by number cannot be somebody's name for this machine."""
        found = origin(f"http://{host}") if host else None
        if found is None:
            return False
        return is_loopback(found[1]) or found[1] in self._names or _address(found[1]) is not None


def origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, name and port of an URL; None for what is none ("null", say)."""
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError:
        return None
    if found.scheme not in DEFAULT_PORTS or not found.hostname or found.username is not None:
        return None
    return found.scheme, found.hostname.rstrip("."), port or DEFAULT_PORTS[found.scheme]


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
