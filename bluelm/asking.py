"""The one way to the engine, for pages and programs: what is asked is counted and told in the log. It can be closed."""

from __future__ import annotations

import threading

from bluelm import metrics
from bluelm.engine import Engine, Generation
from bluelm.errors import BlueLMError, EngineDown
from bluelm.types import Caller, Prompt, SamplingParams

_changed = threading.Condition()
_open = 0
_closed = False


def submit(
    engine: Engine, prompt: Prompt, params: SamplingParams, caller: Caller, *, drop_oldest: bool = False
) -> Generation:
    """`Engine.submit`, with what comes of it counted. Raises the same, and EngineDown once the app is ending."""
    try:
        _enter()
    except BlueLMError as error:
        metrics.refused(caller, error)
        raise
    try:
        generation = engine.submit(prompt, params, drop_oldest=drop_oldest, caller=caller)
    except BaseException as error:
        _leave()
        if isinstance(error, BlueLMError):
            metrics.refused(caller, error)
        raise
    metrics.began(caller, prompt)

    def ended() -> None:
        metrics.ended(generation, caller)
        _leave()

    generation.when_ended(ended)
    return generation


def drain(seconds: float) -> int:
    """Let nobody in any more, and wait for the open answers, `seconds` at most; how many are open still."""
    global _closed
    with _changed:
        _closed = True
        _changed.wait_for(lambda: not _open, seconds)
        return _open


def reopen() -> None:
    """Let people in (again): the app starts."""
    global _closed
    with _changed:
        _closed = False


def _enter() -> None:
    global _open
    with _changed:
        if _closed:
            raise EngineDown("The app is ending: send the request again once it has been started anew.")
        _open += 1


def _leave() -> None:
    global _open
    with _changed:
        _open -= 1
        _changed.notify_all()
