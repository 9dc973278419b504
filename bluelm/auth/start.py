"""Where the app may listen, and what is told at its start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from bluelm.auth.origins import is_loopback, origin
from bluelm.config import Settings
from bluelm.errors import SettingError

SET_ONE = (
    "set BLUELM_PASSCODE (8 characters or more), as in BLUELM_PASSCODE='choose-a-long-one' make run, or passcode in "
    "bluelm.toml"
)
AUTODL = ("AutoDLService6006URL", "AutoDLServiceURL")  # what an instance's shell knows of its public address
AUTODL_PORT = 6006


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server listens (address None: everywhere), and origins that its own configuration allows."""

    address: str | None
    port: int
    origins: Sequence[str] = ()


def public_urls(settings: Settings, listening: Listening) -> list[str]:
    """Every address under which others find this app: as set, as Streamlit has it, as AutoDL tells."""
    found = [*settings.public_urls(), *listening.origins]
    if (autodl := autodl_url(listening)) and autodl not in found:
        found.append(autodl)
    return [url for url in found if (known := origin(url)) is None or not is_loopback(known[1])]


def autodl_url(listening: Listening) -> str:
    """The address that AutoDL gives port 6006 of this instance; "" elsewhere."""
    if listening.port != AUTODL_PORT:
        return ""
    told = next((url for name in AUTODL if (url := os.environ.get(name, "").strip().rstrip("/"))), "")
    if told and "://" not in told:
        told = f"https://{told}"
    return told if origin(told) is not None else ""


def check(settings: Settings, listening: Listening) -> None:
    """Raises SettingError where strangers could come in, or where a key file would shut nobody out."""
    if settings.passcode.get_secret_value():
        return
    if settings.keys:
        raise SettingError(f"BLUELM_KEYS is set, and without a passcode everybody is let in: {SET_ONE}.")
    if not is_loopback(listening.address):
        where = listening.address or "every address of this machine"
        raise SettingError(
            f"The app is to listen on {where}, where others can reach it, and has no passcode: {SET_ONE}; or keep it "
            'to this machine with address = "127.0.0.1" in .streamlit/config.toml.'
        )
    if autodl := autodl_url(listening):
        raise SettingError(
            f"AutoDL shows port {AUTODL_PORT} of this instance to everybody who knows {autodl}, and the app has no "
            f"passcode: {SET_ONE}; or take a port that AutoDL does not show, as in make run PORT=6010."
        )
    if urls := public_urls(settings, listening):
        raise SettingError(f"The app is to be found at {', '.join(urls)} and has no passcode: {SET_ONE}.")


def start_lines(settings: Settings, listening: Listening) -> list[str]:
    """What whoever starts the app should know: where it is found, and by whom."""
    own, port = listening.address if is_loopback(listening.address) else "127.0.0.1", listening.port
    lines = [
        f"Through SSH, from your own computer: ssh -CN -L {port}:127.0.0.1:{port} USER@HOST -p PORT, "
        f"then open http://127.0.0.1:{port}."
    ]
    if not settings.passcode.get_secret_value():
        return [f"No passcode: only this machine may use http://{own}:{port}.", *lines]
    urls = public_urls(settings, listening)
    lines += [f"Also at {url}, with the passcode." for url in urls]
    if not urls:
        lines.append(
            "Behind a proxy with another name or port: set BLUELM_PUBLIC_URL to the address that browsers show."
        )
    return ["Signing in needs the passcode; programs send it, or a key of BLUELM_KEYS, as their API key.", *lines]
