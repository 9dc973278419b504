"""/tokenize and /detokenize, as vLLM has them: the very tokens that an answer's prompt would have, and back."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from bluelm.api import body
from bluelm.api.docs import faults, takes
from bluelm.api.errors import in_words_of
from bluelm.api.openai import require_model
from bluelm.api.requests import DetokenizeRequest, TokenizeRequest
from bluelm.api.responses import OpenAIError, Text, Tokens
from bluelm.api.serving import current_model
from bluelm.engine import Engine
from bluelm.errors import BlueLMError, WrongModelKind
from bluelm.types import ModelInfo, ModelKind

A = TypeVar("A", TokenizeRequest, DetokenizeRequest)
router = APIRouter(tags=["Tokens, as vLLM tells them"])


@router.post(
    "/tokenize", response_model=Tokens, responses=faults(OpenAIError, 429), openapi_extra=takes(TokenizeRequest)
)
async def tokenize(request: Request) -> JSONResponse:
    """The tokens of a prompt, as an answer to it would begin with them."""
    asked, engine, served = await _asked(request, TokenizeRequest)
    if served.kind is ModelKind.BASE and asked.messages is not None:
        raise WrongModelKind(f"{served.id} is a base model, which has no chat format: send prompt.", param="messages")
    work = partial(engine.tokenize, asked.asked(), bos=asked.add_special_tokens is not False)
    try:
        told = await to_thread.run_sync(work, limiter=request.app.state.submits)
    except BlueLMError as error:
        raise in_words_of({} if asked.messages is None else {"prompt": "messages"}, error) from None
    strings = [token.text for token in told.tokens] if asked.return_token_strs else None
    found = {"count": len(told.ids), "max_model_len": served.context, "tokens": list(told.ids), "token_strs": strings}
    return JSONResponse(found)


@router.post(
    "/detokenize", response_model=Text, responses=faults(OpenAIError, 429), openapi_extra=takes(DetokenizeRequest)
)
async def detokenize(request: Request) -> JSONResponse:
    """The text of tokens, markers by name."""
    asked, engine, _ = await _asked(request, DetokenizeRequest)
    text = await to_thread.run_sync(engine.detokenize, asked.tokens, limiter=request.app.state.submits)
    return JSONResponse({"prompt": text})


async def _asked(request: Request, kind: type[A]) -> tuple[A, Engine, ModelInfo]:
    """What is asked, of whom, and the model there. Raises what reading a body raises, and Refusal for another model."""
    body.require_json(request)
    asked = await body.read(request, kind)
    engine = request.app.state.engine()
    served = current_model(engine.state())
    require_model(asked.model, served)
    return asked, engine, served
