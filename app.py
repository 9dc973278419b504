"""The app on one port: pages, the API for programs, the engine's life. `streamlit run app.py` serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from starlette.routing import Route
from streamlit.starlette import App

from bluelm import service
from bluelm.api import create_api, json_error

api = create_api(service.engine)


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    """Open the engine at once (it loads behind the scenes), and close it when the server ends."""
    await to_thread.run_sync(service.engine)
    try:
        async with api.router.lifespan_context(api):
            yield
    finally:
        await to_thread.run_sync(service.close)


# A literal `app = App(...)`: Streamlit finds it by reading this file. Every path named here is the API's, whatever the
# method; all others belong to the pages, which answer GET alone, so what they refuse is worded by json_error.
app = App(
    "components/navigation.py",
    routes=[
        Route("/", api, methods=["POST"]),
        Route("/v1", api),
        Route("/v1/{path:path}", api),
        Route("/health", api),
        Route("/docs", api),
        Route("/docs/{path:path}", api),
        Route("/openapi.json", api),
    ],
    lifespan=lifespan,
    exception_handlers={404: json_error, 405: json_error},
)
