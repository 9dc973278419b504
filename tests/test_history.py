"""What is kept of the engine's last minutes."""

from __future__ import annotations

import time

import pytest

from bluelm import history
from bluelm.history import History
from bluelm.types import EngineState, Phase, Totals


def test_rates_are_those_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "EVERY_S", 3600.0)
    now = [EngineState(Phase.LOADING)]
    kept = History(lambda: now[0])
    for totals in (Totals(10.0), Totals(10.5, 40, 100, 2, 0.5), Totals(10.5, 40, 100, 2, 0.5), Totals(12.5, 140, 100)):
        now[0] = EngineState(Phase.READY, running=3, cache_used=64, totals=totals)
        kept.look()
    samples = kept.last(60)
    assert [sample.tokens_per_s for sample in samples] == [0, 80, 80, 50]
    assert [sample.prompt_tokens_per_s for sample in samples] == [0, 200, 200, 0]
    assert [sample.first_token_s for sample in samples] == [None, 0.25, None, None]
    assert samples[0].running == 3 and samples[0].cache_used == 64
    now[0] = EngineState(Phase.RESTARTING, totals=Totals(12.5, 140, 100))
    kept.look()
    assert kept.last(60)[-1].tokens_per_s == 0, "an engine that is gone makes nothing"
    kept.close()


def test_it_looks_by_itself_and_forgets_what_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "EVERY_S", 0.002)
    monkeypatch.setattr(history, "KEPT", 5)
    states: list[EngineState | None] = [None]
    kept = History(lambda: states[0])
    time.sleep(0.05)
    assert kept.last(60) == [], "no engine, nothing to keep"
    states[0] = EngineState(Phase.READY)
    end = time.monotonic() + 5
    while len(kept.last(60)) < 5 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(kept.last(60)) == 5 and kept.last(0.0) == []
    kept.close()
