"""Log lines that people and programs can read: one line an event, as text or as a JSON object.

    log = logging.getLogger("bluelm.engine")
    event(log, "accepted", request=id, prompt_tokens=12)
    2026-11-27T21:50:00.123Z INFO bluelm.engine: accepted request=4f0c prompt_tokens=12
    {"time": "2026-11-27T21:50:00.123Z", "level": "info", "logger": "bluelm.engine", "event": "accepted", ...}

`request` is the id that goes with a request from the browser or client to the engine process. What people and models
wrote is never in a line, unless BLUELM_LOG_PROMPTS asks for it (`private`).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from bluelm.config import Settings

OTHERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "streamlit")  # whose lines are to look like ours
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/%+@,()")
_prompts = False


def set_up(settings: Settings) -> None:
    """Say what the settings ask for on stderr, from now on; called once in each process, again to change it."""
    global _prompts
    _prompts = settings.log_prompts
    form = Json() if settings.log == "json" else Text()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(form)
    ours = logging.getLogger("bluelm")
    ours.handlers[:] = [handler]
    ours.setLevel(settings.log_level.upper())
    ours.propagate = False
    for name in OTHERS:
        for other in logging.getLogger(name).handlers:
            other.setFormatter(form)


def event(log: logging.Logger, name: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """A line of its own; fields that are None or "" are left out."""
    if log.isEnabledFor(level):
        log.log(level, "%s", name, extra={"fields": {k: v for k, v in fields.items() if v is not None and v != ""}})


def private(log: logging.Logger, name: str, **fields: Any) -> None:
    """The same for what people and models wrote: nothing, unless the settings ask for it."""
    if _prompts:
        event(log, name, **fields)


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"


class Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_shown(value)}" for name, value in getattr(record, "fields", {}).items())
        line = f"{_stamp(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: Any) -> str:
    """A value that ends where it ends: in quotes unless it is one plain word."""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if text and set(text) <= _PLAIN else json.dumps(text, ensure_ascii=False)


class Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _stamp(record), "level": record.levelname.lower(), "logger": record.name,
            "event": record.getMessage(), **getattr(record, "fields", {}),
        }  # fmt: skip
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
