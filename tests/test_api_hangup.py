"""A client that hangs up ends its answer, whenever it does and however it asked."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from bluelm.engine import Generation
from bluelm.types import Chunk
from tests.api_kit import CHAT, COMPLETIONS, Api, Hangup
from tests.fakes import FakeEngine

BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/", {"prompt": "hi"}),
    (CHAT, {"messages": [{"role": "user", "content": "hi"}]}),
    (COMPLETIONS, {"prompt": "hi"}),
]
STREAMS = [(path, {**body, "stream": True}) for path, body in BODIES[1:]]


def endless(*_: Any) -> Any:
    while True:
        yield "x "


@pytest.fixture
def api() -> Api:
    return Api(FakeEngine(endless, pause=0.005))


def nothing_runs(engine: FakeEngine, seconds: float = 2.0) -> bool:
    end = time.monotonic() + seconds
    while engine.running and time.monotonic() < end:
        time.sleep(0.005)
    return not engine.running


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_a_whole_answer_ends_with_its_client(api: Api, path: str, body: dict[str, Any]) -> None:
    asyncio.run(Hangup(api, path, body).run(gone_after_s=0.1))
    assert len(api.engine.seen) == 1
    assert nothing_runs(api.engine)


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_a_stream_ends_with_its_client(api: Api, path: str, body: dict[str, Any]) -> None:
    client = Hangup(api, path, body, after=5)
    asyncio.run(client.run())
    assert nothing_runs(api.engine)
    assert len(client.sent) < 50


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_a_stream_ends_with_its_client_before_the_first_piece(path: str, body: dict[str, Any]) -> None:
    api = Api(FakeEngine(endless, pause=3600.0))
    asyncio.run(Hangup(api, path, body).run(gone_after_s=0.05))
    assert nothing_runs(api.engine)


@pytest.mark.parametrize(("path", "body"), [*BODIES, *STREAMS])
def test_a_client_that_is_gone_before_submit_returns_leaves_nothing_behind(path: str, body: dict[str, Any]) -> None:
    class Slow(FakeEngine):
        def submit(self, *given: Any, **named: Any) -> Generation:
            time.sleep(0.1)
            return super().submit(*given, **named)

    api = Api(Slow(endless, pause=0.005))
    asyncio.run(Hangup(api, path, body).run(gone_after_s=0.01))
    assert len(api.engine.seen) == 1
    assert nothing_runs(api.engine)


def test_a_request_that_is_cancelled_during_submit_leaves_nothing_behind() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Stuck(FakeEngine):
        def submit(self, *given: Any, **named: Any) -> Generation:
            entered.set()
            assert leave.wait(5)
            return super().submit(*given, **named)

    api = Api(Stuck(endless, pause=0.005))

    async def cancelled() -> None:
        request = asyncio.ensure_future(Hangup(api, "/", {"prompt": "hi"}).run(gone_after_s=60))
        await asyncio.to_thread(entered.wait, 5)
        request.cancel()
        leave.set()
        await asyncio.gather(request, return_exceptions=True)

    asyncio.run(cancelled())
    while not api.engine.seen:  # the thread goes on after its request
        time.sleep(0.005)
    assert nothing_runs(api.engine)


def test_an_answer_that_came_to_its_end_is_not_cancelled() -> None:
    cancels: list[str] = []

    class Watched(FakeEngine):
        def submit(self, *given: Any, **named: Any) -> Generation:
            generation = super().submit(*given, **named)
            plain = generation._on_cancel
            generation._on_cancel = lambda: (cancels.append(generation.id), plain())[1]  # type: ignore
            return generation

    api = Api(Watched())
    assert api.chat("a b").status_code == 200
    assert api.chat("a b", stream=True).status_code == 200
    assert not cancels


def test_no_reader_stays_on_an_answer_after_its_client() -> None:
    kept: list[Generation] = []

    class Keeping(FakeEngine):
        def submit(self, *given: Any, **named: Any) -> Generation:
            kept.append(super().submit(*given, **named))
            return kept[-1]

    api = Api(Keeping(endless, pause=0.005))
    asyncio.run(Hangup(api, CHAT, {**BODIES[1][1], "stream": True}, after=3).run())
    assert nothing_runs(api.engine)
    kept[0].push(Chunk("late"))
    assert not kept[0]._listeners
