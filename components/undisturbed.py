"""What a reader's click sets off is done whole, whatever comes next."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

log = logging.getLogger("bluelm.pages")
_here = threading.local()


@contextmanager
def undisturbed() -> Iterator[None]:
    """The script that runs here is not ended in favour of the next event before this is left. Keep it short."""
    before = getattr(_here, "held", False)
    _here.held = True
    try:
        yield
    finally:
        _here.held = before


def keep_callbacks_whole() -> None:
    """From now on Streamlit's callbacks run undisturbed, and `undisturbed` has its effect.

    Streamlit 1.67 ends a script wherever it touches the state or the page once the next event has come, and its
    callbacks too: what they had not done yet was lost, a whole click where another event came quickly behind it.
    """
    try:
        from streamlit.runtime.scriptrunner_utils.script_requests import ScriptRequests
        from streamlit.runtime.state.safe_session_state import SafeSessionState

        may_end, run = ScriptRequests.on_scriptrunner_yield, SafeSessionState.on_script_will_rerun
    except (ImportError, AttributeError):  # another release of Streamlit's: then as it does by itself
        log.exception("callbacks may be broken off by the next event")
        return
    if hasattr(run, "__wrapped__"):
        return

    @wraps(may_end)
    def unless_held(requests: ScriptRequests) -> Any:
        return None if getattr(_here, "held", False) else may_end(requests)

    @wraps(run)
    def whole(state: SafeSessionState, *args: Any, **options: Any) -> None:
        with undisturbed():
            run(state, *args, **options)

    ScriptRequests.on_scriptrunner_yield = unless_held  # type: ignore[assignment,method-assign]
    SafeSessionState.on_script_will_rerun = whole  # type: ignore[assignment,method-assign]
