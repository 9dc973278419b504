"""What tests of whole models in Triton's interpreter share."""

from __future__ import annotations

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes its time for each program, however much that computes; on a card all shapes are its own."""
    if INTERPRETED:
        from bluelm.engine.gpu import shapes

        monkeypatch.setattr(shapes, "strip", lambda name: shapes.Strip(64, 1024, 4))
        monkeypatch.setattr(shapes, "reading", lambda rows, exact: shapes.Reading(32, 2, 16))
