"""One bar for the whole: bytes, speed and time left on a terminal; a line now and then in a log file."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from bluelm.download.words import gigabytes

TICK_S, LINE_S = 0.5, 30.0


class Bar:
    """Shows how far `done()` (bytes) is from `total`, from its own thread, until it is closed."""

    def __init__(self, title: str, total: int, done: Callable[[], int], out: TextIO | None = None) -> None:
        self.title, self.total, self.done, self.out = title, total, done, out or sys.stderr
        self._end = threading.Event()
        self._start, self._first = time.monotonic(), done()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Bar:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        self._show(end="\n")

    def _run(self) -> None:
        lively = self.out.isatty()
        while not self._end.wait(TICK_S if lively else LINE_S):
            self._show(end="" if lively else "\n")

    def _show(self, end: str) -> None:
        start = "\r\033[K" if self.out.isatty() else ""
        print(start + self.text(), end=end, file=self.out, flush=True)

    def text(self) -> str:
        """The line as it stands."""
        done, passed = self.done(), time.monotonic() - self._start
        speed = max(0, done - self._first) / passed if passed > 0 else 0.0
        share = done / self.total if self.total else 1.0
        left = f", {clock((self.total - done) / speed)}" if speed and done < self.total else ""
        return (
            f"{self.title} {share:4.0%} |{'#' * int(20 * share):20}| "
            f"{gigabytes(done)} / {gigabytes(self.total)}, {gigabytes(speed)}/s{left}"
        )


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
