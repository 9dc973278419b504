"""Reading ahead never runs away from those who use what is read, and ends with them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from bluelm.engine import read_ahead
from bluelm.engine.read_ahead import PIECE, ReadAhead

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such hints")


def until(holds) -> bool:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 5
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def test_it_stays_so_far_ahead_and_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        with file.open("wb") as opened:
            opened.truncate(6 * PIECE)
    asked: list[int] = []
    monkeypatch.setattr(read_ahead, "AHEAD", 4 * PIECE)
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, *__: asked.append(start // PIECE))
    reader = ReadAhead(files)
    assert until(lambda: len(asked) == 4)
    reader.used(3 * PIECE)
    assert until(lambda: asked == [0, 1, 2, 3, 4, 5, 0])
    assert readers()
    reader.close()
    assert until(lambda: not readers())
    assert len(asked) == 7


def test_a_file_that_is_gone_costs_nothing_but_its_hint(tmp_path: Path) -> None:
    ReadAhead([tmp_path / "missing"])
    assert until(lambda: not readers())
