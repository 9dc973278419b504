"""Pages whose readers have left: what Streamlit holds for them is let go in time."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from streamlit import config, runtime

log = logging.getLogger("bluelm.pages")
LOOKS = 20  # at what is left, within the time that Streamlit keeps it


async def let_go() -> None:
    """Close the sessions of pages that have been gone for (nearly) `server.disconnectedSessionTTL`, until cancelled.

    Streamlit 1.67 keeps them for that long, so that a page may come back; then it only forgets them, when the next
    page is left, and an event loop (three file handles), state and files of each stay until Python's garbage
    collection happens upon them: in a quiet server for ever.
    """
    kept_s = float(config.get_option("server.disconnectedSessionTTL"))
    left: dict[str, tuple[float, Any]] = {}
    while True:
        await asyncio.sleep(kept_s / LOOKS)
        try:
            left = _look(left, kept_s * (1 - 3 / LOOKS))  # before the store hides them, even if a look is late
        except Exception:  # another release of Streamlit's: then as it does by itself
            log.exception("pages that were left are not let go")
            return


def _look(left: dict[str, tuple[float, Any]], kept_s: float) -> dict[str, tuple[float, Any]]:
    """Who is gone and since when (time.monotonic), by session id; those for whom it is time are closed."""
    if not runtime.exists():
        return {}
    running, now = runtime.get_instance(), time.monotonic()
    known = {one.session.id: one for one in running._session_mgr.list_sessions()}
    gone = {name: one for name, one in known.items() if not running.is_active_session(name)}
    still: dict[str, tuple[float, Any]] = {}
    for name, one in gone.items():
        since, before = left.get(name, (now, one))
        if before is not one:  # it was back meanwhile
            since = now
        if now - since < kept_s:
            still[name] = (since, one)
        else:
            running.close_session(name)
    for name, (_, one) in left.items():
        if name not in known:
            one.session.shutdown()  # Streamlit has forgotten it already: it has place for 128
    return still
