"""The one engine of this process, shared by every page, session and API request."""

from __future__ import annotations

import threading

from bluelm.config import Settings, load_settings
from bluelm.engine import Engine, open_engine
from bluelm.history import History
from bluelm.types import EngineState

_lock = threading.Lock()
_engine: Engine | None = None
_settings: Settings | None = None
_history: History | None = None


def settings() -> Settings:
    """The settings of this process, read at the first call. Raises SettingError."""
    global _settings
    with _lock:
        if _settings is None:
            _settings = load_settings()
        return _settings


def engine() -> Engine:
    """The engine, opened at the first call, whoever makes it: a cleared cache or a second session opens no other."""
    global _engine
    wanted = settings()
    with _lock:
        if _engine is None:
            _engine = open_engine(wanted)
        return _engine


def history() -> History:
    """What the engine did in the last minutes, from the first call on."""
    global _history
    with _lock:
        if _history is None:
            _history = History(_state)
        return _history


def _state() -> EngineState | None:
    with _lock:
        return None if _engine is None else _engine.state()


def use(other: Engine) -> None:
    """Serve with this engine from now on (tests; a remote server)."""
    global _engine
    with _lock:
        _engine = other


def close() -> None:
    """End the engine, at the process's end."""
    global _engine, _history
    with _lock:
        ending, _engine = _engine, None
        if _history is not None:
            _history.close()
            _history = None
    if ending is not None:
        ending.close()
