"""Everything that can go wrong on the way of a request, in the JSON shape of the API that was asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from bluelm.errors import BlueLMError, EngineDied, EngineLoading, EngineRestarted

RETRY_SOON_S = 5
_CODES = {404: "not_found", 405: "method_not_allowed"}
_MISSES = {
    404: "There is nothing at this address: see /docs for what there is.",
    405: "This address does not take this method: see /docs for what it takes.",
}


@dataclass(frozen=True)
class Fault:
    """An error as programs get it. `retry_after` is in seconds, None where trying again does not help."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after: int | None = None

    def openai(self) -> dict[str, Any]:
        kinds = {429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def tutorial(self) -> dict[str, Any]:
        return {"error": self.message, "status": self.status}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class Refusal(Exception):
    """A fault of the request over HTTP that has no place in the tree of bluelm.errors."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.fault = Fault(status, message, code, param)


def fault_of(error: Exception) -> Fault:
    """The fault to tell for `error`; what nobody foresaw is told as a plain 500."""
    if isinstance(error, Refusal):
        return error.fault
    if isinstance(error, BlueLMError):
        return Fault(error.status, error.message, error.code, error.param, _retry_after(error))
    if isinstance(error, HTTPException):
        message = _MISSES.get(error.status_code, error.detail or HTTPStatus(error.status_code).phrase)
        return Fault(error.status_code, message, _CODES.get(error.status_code, "http_error"))
    return Fault(500, "The server failed at this request: its log says why.", "internal_error")


def _retry_after(error: BlueLMError) -> int | None:
    if isinstance(error, (EngineLoading, EngineDied, EngineRestarted)):
        return RETRY_SOON_S
    return error.details.get("retry_after")


def in_words_of(names: dict[str, str], error: BlueLMError) -> BlueLMError:
    """The same error with the field names that the client knows: {"max_length": "max_tokens"} for OpenAI's."""
    if (limit := names.get("max_length")) is not None:
        error.message = re.sub(r"\bmax_length\b", limit, error.message)
    if error.param is not None:
        error.param = names.get(error.param, error.param)
    return error


async def json_error(request: Request, error: Exception) -> JSONResponse:
    """The handler of every error: OpenAI's shape under /v1 and for tokens, {"error", "status"} elsewhere."""
    fault = fault_of(error)
    path = request.url.path
    of_openai = path in ("/v1", "/tokenize", "/detokenize") or path.startswith("/v1/")
    headers = {**(getattr(error, "headers", None) or {}), **fault.headers()}
    if fault.status == 405 and path == "/":
        headers["Allow"] = "GET, HEAD, POST"  # the page's and ours: either knows its own alone
    return JSONResponse(fault.openai() if of_openai else fault.tutorial(), fault.status, headers)
