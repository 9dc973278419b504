"""How threads in compiled code wait for each other, and share what is to be done."""

from __future__ import annotations

import numpy as np

from bluelm.engine.native.job import ARRIVED, TAKEN, TURN, compiled
from bluelm.engine.native.vectors import apart, fetched_added, pause, put, seen, sleep_while, wake_all

LOOKS = 4000  # of a thread that waits before it sleeps: some hundredths of a millisecond


@compiled
def change(address):
    """Count on what is there, and wake those who sleep until it does."""
    fetched_added(address, np.int64(1))
    if seen(address + 8) > 0:
        wake_all(address)


@compiled
def until_changed(address, number):
    """Wait until what is there is no longer this number; who waits for long leaves its core to others."""
    looks = 0
    while seen(address) == number:
        if looks < LOOKS:
            looks += 1
            pause()
        else:
            fetched_added(address + 8, np.int64(1))
            sleep_while(address, number)
            fetched_added(address + 8, np.int64(-1))


@compiled
def meet(threads, control):
    """Wait until all threads are here; what is taken in turn begins anew."""
    apart()
    turn = seen(control + 8 * TURN)
    if fetched_added(control + 8 * ARRIVED, np.int64(1)) == threads - 1:
        put(control + 8 * ARRIVED, np.int64(0))
        put(control + 8 * TAKEN, np.int64(0))
        change(control + 8 * TURN)
    else:
        until_changed(control + 8 * TURN, turn)


@compiled
def share(thread, threads, rows):
    """A thread's rows: first, and the one behind the last. What lies in one cache line is for one thread to write."""
    unit = 8 if rows >= 8 * threads else 2
    count = (rows + unit - 1) // unit
    return min(thread * count // threads * unit, rows), min((thread + 1) * count // threads * unit, rows)
