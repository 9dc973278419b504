"""The engine over the last minutes: a look at it each second, whether or not a page shows it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bluelm.types import EngineState, Phase, Totals

EVERY_S = 1.0
KEPT = 600  # samples
log = logging.getLogger("bluelm.history")


@dataclass(frozen=True, slots=True)
class Sample:
    """The engine at one moment. at: time.monotonic().

    tokens_per_s, prompt_tokens_per_s: made and computed since the sample before. first_token_s: what those waited for
    their first token who got it since then, on average; None where nobody did. The rest is EngineState's.
    """

    at: float
    tokens_per_s: float
    prompt_tokens_per_s: float
    first_token_s: float | None
    running: int
    waiting: int
    cache_used: int
    gpu_memory_used: int


class History:
    """Looks at an engine on a thread of its own, and keeps what it saw for ten minutes."""

    def __init__(self, state: Callable[[], EngineState | None]) -> None:
        """state: the engine's; None while there is none."""
        self._state = state
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._before = Totals()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="history", daemon=True)
        self._thread.start()

    def last(self, seconds: float) -> list[Sample]:
        """The samples of the last so many seconds, oldest first."""
        since = time.monotonic() - seconds
        return [sample for sample in tuple(self._samples) if sample.at >= since]

    def look(self) -> None:
        """Take a sample."""
        state = self._state()
        if state is None:
            return
        now, before, self._before = state.totals, self._before, state.totals
        last = self._samples[-1] if self._samples else None
        tokens_per_s = prompt_tokens_per_s = 0.0
        if now.at > before.at > 0:
            passed = now.at - before.at
            tokens_per_s = (now.tokens - before.tokens) / passed
            prompt_tokens_per_s = (now.prompt_tokens - before.prompt_tokens) / passed
        elif last is not None and state.phase is Phase.READY:  # its figures come twice a second, if it finds the time
            tokens_per_s, prompt_tokens_per_s = last.tokens_per_s, last.prompt_tokens_per_s
        first = now.answers - before.answers
        self._samples.append(
            Sample(
                time.monotonic(), tokens_per_s, prompt_tokens_per_s,
                (now.first_token_s - before.first_token_s) / first if first > 0 else None,
                state.running, state.waiting, state.cache_used, state.gpu_memory_used,
            )
        )  # fmt: skip

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(EVERY_S):
            try:
                self.look()
            except Exception:
                log.exception("the engine could not be looked at")
