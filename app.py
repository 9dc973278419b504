"""The app on one port: pages, the API for programs, the engine's life. `streamlit run app.py` serves it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import streamlit
from anyio import to_thread
from starlette.middleware import Middleware
from starlette.routing import Route
from streamlit import config
from streamlit.starlette import App

from bluelm import asking, auth, logs, service, sockets, store
from bluelm.api import create_api, json_error
from bluelm.api.serving import SEND_S
from bluelm.api.trace import Traced
from bluelm.errors import SettingError
from bluelm.owner import OwnerCookie
from components import left_pages, undisturbed

log = logging.getLogger("bluelm.app")
api = create_api(service.engine)
listening = auth.Listening(
    config.get_option("server.address"),
    config.get_option("server.port"),
    config.get_option("server.corsAllowedOrigins"),
)
try:
    settings = service.settings()
    auth.check(settings, listening)
except SettingError as error:
    sys.exit(error.message)
page = Path(streamlit.__file__).parent / "static" / "index.html"


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    """Open the engine at once (it loads behind the scenes), and close it when the server ends."""
    logs.set_up(settings)
    asking.reopen()
    sockets.cut_off_after(SEND_S)
    sockets.keep_idle()
    undisturbed.keep_callbacks_whole()
    print(*auth.start_lines(settings, listening), sep="\n", flush=True)
    await to_thread.run_sync(service.engine)
    service.history()  # from the start on, not from the first look
    letting_go = asyncio.create_task(left_pages.let_go())
    try:
        with answers_end_at_a_signal() as ending:
            async with api.router.lifespan_context(api):
                yield
            await to_thread.run_sync(ending.wait_drained)
    finally:
        letting_go.cancel()
        await to_thread.run_sync(service.close)
        await to_thread.run_sync(store.close)  # behind the engine: what was being answered is kept as far as it was


class Ending:
    """SIGTERM lets open answers go on for BLUELM_DRAIN_S, Ctrl-C and a second signal end them at once.

    The server waits for open streams, some of which take minutes: they end with the engine.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def begin(self, number: int) -> None:
        again = self._thread is not None
        seconds = 0.0 if again or number == signal.SIGINT else service.settings().drain_s
        self._thread = threading.Thread(target=self._drain, args=(seconds,), name="drain")
        self._thread.start()

    def wait_drained(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _drain(self, seconds: float) -> None:
        left = asking.drain(seconds)
        logs.event(log, "ending", drained_s=seconds, cut_off=left)
        service.engine().close()


@contextmanager
def answers_end_at_a_signal() -> Iterator[Ending]:
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        ending.begin(number)
        if callable(server := former[signal.Signals(number)]):
            server(number, frame)

    for number in former:
        signal.signal(number, handle)
    try:
        yield ending
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


# A literal `app = App(...)`: Streamlit finds it by reading this file. Every path named here is the API's, whatever the
# method; all others belong to the pages, which answer GET alone, so what they refuse is worded by json_error.
app = App(
    "components/navigation.py",
    routes=[
        Route("/", api, methods=["POST"]),
        Route("/v1", api),
        Route("/v1/{path:path}", api),
        Route("/tokenize", api),
        Route("/detokenize", api),
        Route("/health", api),
        Route("/health/{path:path}", api),
        Route("/metrics", api),
        Route("/docs", api),
        Route("/docs/{path:path}", api),
        Route("/openapi.json", api),
    ],
    middleware=[
        Middleware(Traced),
        Middleware(auth.Gate, settings, listening, auth.script_hashes(page)),  # in front of everything that answers
        Middleware(OwnerCookie),
    ],
    lifespan=lifespan,
    exception_handlers={404: json_error, 405: json_error},
)
