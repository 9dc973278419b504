"""Files fetched into the system's cache before they are needed: else a mapping waits for the disk page by page."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PIECE = 1 << 20  # bytes; Linux fetches no more than about this much at a word
AHEAD = 1 << 30  # bytes that are fetched and not used yet, at most


class ReadAhead:
    """Asks for the files' bytes in order, at most AHEAD further than they are used.

    Only a hint: whoever uses other bytes first just waits for the disk.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._ahead = 0
        self._closed = False
        self._changed = threading.Condition()
        if hasattr(os, "posix_fadvise"):
            threading.Thread(target=self._run, name="read ahead", daemon=True).start()

    def used(self, size: int) -> None:
        """So many bytes are done with."""
        with self._changed:
            self._ahead -= size
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        for file in self._files:
            with suppress(OSError), file.open("rb") as opened:
                for start in range(0, file.stat().st_size, PIECE):
                    with self._changed:
                        self._changed.wait_for(lambda: self._closed or self._ahead < AHEAD)
                        if self._closed:
                            return
                        self._ahead += PIECE
                    os.posix_fadvise(opened.fileno(), start, PIECE, os.POSIX_FADV_WILLNEED)
