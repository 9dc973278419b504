"""The threads that compute together: those that call, and helpers that wait for a bell, all in compiled code."""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
import torch

from bluelm.engine.native import job as places
from bluelm.engine.native.work import work


class Crew:
    """So many threads, one of them the caller's; one job at a time."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.job = np.zeros(places.JOB, dtype=np.int64)
        lines = np.zeros(places.CONTROL + 8, dtype=np.int64)
        self._control = lines[-lines.ctypes.data % 64 // 8 :]  # on a cache line of its own
        self._address = self._control.ctypes.data
        self._lock = threading.Lock()
        for index in range(1, threads):
            given = (index, threads, self._address, self.job)
            threading.Thread(target=work, args=given, name=f"crew {index}", daemon=True).start()

    def run(self, job: np.ndarray) -> None:
        """Do it. job: int64 [places.JOB]; what its addresses lead to must live until this returns."""
        with self._lock:
            self.job[:] = job
            work(0, self.threads, self._address, self.job)


@cache
def _crew(threads: int) -> Crew:
    return Crew(threads)


def crew() -> Crew:
    """As many as PyTorch computes with."""
    return _crew(torch.get_num_threads())
