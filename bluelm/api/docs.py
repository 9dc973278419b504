"""/docs and /openapi.json: true to the routes, and served without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from bluelm.api.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest, TutorialRequest
from bluelm.api.responses import ChatCompletionChunk, OpenAIError, TutorialError

_REF = "#/components/schemas/"
_BODIES: tuple[type[BaseModel], ...] = (
    TutorialRequest, ChatRequest, CompletionRequest, ChatCompletionChunk, TokenizeRequest, DetokenizeRequest,
)  # fmt: skip
_PAGE = {
    "summary": "The pages, for people",
    "operationId": "page",
    "responses": {"200": {"description": "HTML", "content": {"text/html": {"schema": {"type": "string"}}}}},
}
_FAULTS = {
    400: "the request can never work as it is",
    401: "the passcode or key is missing or wrong",
    403: "another site or a proxy asks, where only this machine may",
    404: "no such model",
    413: "the body is too large",
    415: "the body is sent as something else than JSON",
    429: "too many requests are waiting; see Retry-After",
    500: "the engine or the server failed at this request",
    503: "no answer can be made at the moment; Retry-After is set where waiting helps",
}


def faults(shape: type[OpenAIError] | type[TutorialError], *but: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, all but some."""
    return {status: {"model": shape, "description": why} for status, why in _FAULTS.items() if status not in but}


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """The body of a route, which body.py reads past FastAPI."""
    content = {"application/json": {"schema": {"$ref": _REF + kind.__name__}}}
    return {"requestBody": {"required": True, "content": content}}


def named(name: str, description: str) -> dict[str, Any]:
    """A part of a route's path that FastAPI does not see."""
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}
        ]
    }


def streams(kind: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The other form of a 200: server-sent events."""
    return {200: {"content": {"text/event-stream": {"schema": {"$ref": _REF + kind.__name__}}}}}


def add_docs(api: FastAPI) -> None:
    """Swagger UI from files of this machine: FastAPI's own page fetches them from a CDN."""
    _describe_bodies(api)
    assets = Path(fastapi_offline.__file__).parent / "static"
    api.mount("/docs/assets", StaticFiles(directory=assets))

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=api.title,
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},
        )


def _describe_bodies(api: FastAPI) -> None:
    """Put into /openapi.json the bodies that body.py reads and openai.py streams, past FastAPI's own reading."""
    plain = api.openapi

    def described() -> dict[str, Any]:
        document = plain()
        _, definitions = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REF + "{model}")
        document["components"]["schemas"].update(definitions["$defs"])
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}, {}]
        document["paths"]["/"]["get"] = _PAGE
        return document

    api.openapi = described  # type: ignore[method-assign]
