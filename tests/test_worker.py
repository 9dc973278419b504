"""The engine process's intake: what takes long for one request keeps no other waiting."""

from __future__ import annotations

import socket
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from bluelm.config import load_settings
from bluelm.engine.core import Request
from bluelm.engine.guide import Guides
from bluelm.engine.loader import load
from bluelm.engine.wire import Accepted, Cancel, Line, Refused, Submit, ToApp, ToEngine, Tokenize, TokensTold
from bluelm.engine.worker import LONG, Worker
from bluelm.types import Message, Role, SamplingParams
from tests.checkpoints import write_checkpoint

HELLO = (Message(Role.USER, "Hello"),)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """Without threads: a test does what they would do."""
    folder = tmp_path / "BlueLM-7B-Chat"
    write_checkpoint(folder)
    settings = load_settings(model=str(folder), device="cpu", threads=1)
    ours, theirs = socket.socketpair()
    worker = Worker(Line(Connection(theirs.detach()), ToEngine), load(settings, lambda *_: None), settings)
    worker.app = Line(Connection(ours.detach()), ToApp)  # type: ignore[attr-defined]
    return worker


def asked(id: str, schema: str = "") -> Submit:
    return Submit(id, HELLO, SamplingParams(max_length=5, json_schema=schema), False)


def test_what_takes_long_keeps_nobody_else_waiting(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """And who cancels meanwhile is heard: behind the request, not before it."""
    app: Any = worker.app  # type: ignore[attr-defined]
    begun, go_on, start = threading.Event(), threading.Event(), Guides.start

    def slow(guides: Guides, schema: str) -> Any:
        begun.set()
        assert go_on.wait(10)
        return start(guides, schema)

    monkeypatch.setattr(Guides, "start", slow)
    threading.Thread(target=worker._work_aside, daemon=True).start()
    for said in (
        asked("held", '{"type": "object"}'),
        asked("bad", '{"not": {}}'),
        Tokenize("long", "a" * LONG * 2, True),
    ):
        worker.hear(said)
    assert begun.wait(10)
    worker.hear(Tokenize("told", "text", bos=True))
    worker.hear(asked("plain"))
    worker.hear(Cancel("held"))
    news = [app.receive(), app.receive()]
    assert [(type(one), one.id) for one in news] == [(TokensTold, "told"), (Accepted, "plain")]
    assert worker.pulse().waiting == 3
    go_on.set()
    news = [app.receive(), app.receive(), app.receive()]
    assert [(type(one), one.id) for one in news] == [(Accepted, "held"), (Refused, "bad"), (TokensTold, "long")]
    assert "JSON schema" in news[1].error["message"]
    order = [worker._inbox.get(timeout=5) for _ in range(3)]
    assert [(type(one), one.id) for one in order] == [(Request, "plain"), (Request, "held"), (Cancel, "held")]
    assert isinstance(order[1], Request) and order[1].guide is not None and set(worker._coming) == {"plain", "held"}


def test_what_a_first_schema_needs_is_made_when_nobody_asks(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bluelm.engine.worker.IDLE_S", 0.01)
    made = threading.Event()
    prepare = Guides.prepare

    def noted(guides: Guides) -> None:
        prepare(guides)
        made.set()

    monkeypatch.setattr(Guides, "prepare", noted)
    assert not worker.guides.ready
    threading.Thread(target=worker._work_aside, daemon=True).start()
    assert made.wait(10) and worker.guides.ready
