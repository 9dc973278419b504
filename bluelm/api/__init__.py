"""What programs see: the tutorial's API (POST /), OpenAI's (/v1), /health and /docs, as one FastAPI app.

body.py      bytes -> checked JSON -> a request of requests.py, past options.py (what is refused by name)
requests.py, responses.py, tools.py   what bodies are checked against, and what /openapi.json tells
serving.py   an answer on its way to a client that may hang up
errors.py    one JSON shape per API for everything that goes wrong
replies.py, forms.py, choices.py   an answer in OpenAI's words, its choices, and how there come to be several
chances.py   how likely its tokens were
openai.py, tokens.py, tutorial.py, health.py   the routes
"""

from __future__ import annotations

from collections.abc import Callable

from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from bluelm import __version__
from bluelm.api import health, openai, tokens, tutorial
from bluelm.api.docs import add_docs
from bluelm.api.errors import Refusal, json_error
from bluelm.engine import Engine
from bluelm.errors import BlueLMError

__all__ = ["create_api", "json_error"]

SUBMIT_THREADS = 256  # submit blocks for milliseconds; more than the simultaneous requests that one engine takes

DESCRIPTION = """\
`POST /` is the tutorial's API, `/v1` is OpenAI's: point any OpenAI client at this server's address
with `/v1` at the end.

A field that this server does not know or cannot honour is refused by name, never ignored. A field that is left out (or
null) takes the model's own default. A client that hangs up ends its answer.
"""


def create_api(engine: Callable[[], Engine]) -> FastAPI:
    """The API over `engine`, which is asked for at each request."""
    api = FastAPI(title="BlueLM Chat", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    api.state.engine = engine
    api.state.submits = CapacityLimiter(SUBMIT_THREADS)
    for kind in (BlueLMError, Refusal, HTTPException, Exception):
        api.add_exception_handler(kind, json_error)
    for routes in (tutorial.router, openai.router, tokens.router, health.router):
        api.include_router(routes)
    add_docs(api)
    return api
