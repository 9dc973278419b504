"""/v1: OpenAI's API, as far as one text model goes. What it asks beyond that is refused by name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bluelm.api import body
from bluelm.api.choices import choice
from bluelm.api.docs import faults, named, streams, takes
from bluelm.api.errors import Refusal, in_words_of
from bluelm.api.forms import ChatForm, CompletionForm, Form, ToolForm
from bluelm.api.replies import Reply
from bluelm.api.requests import ChatRequest, CompletionRequest, OpenAIAsked
from bluelm.api.responses import ChatCompletion, ChatCompletionChunk, Completion, ModelCard, ModelList, OpenAIError
from bluelm.api.serving import EventStream, HungUp, current_model, settings, start, texts
from bluelm.errors import BlueLMError, WrongModelKind
from bluelm.types import ModelInfo, ModelKind, Prompt

router = APIRouter(prefix="/v1", tags=["OpenAI's API"])
STARTED = int(time.time())


@router.get("/models", response_model=ModelList, responses=faults(OpenAIError, 400, 404, 413, 415, 429))
async def models(request: Request) -> JSONResponse:
    """The one model that is served."""
    model = current_model(request.app.state.engine().state())
    return JSONResponse({"object": "list", "data": [_card(model)]})


@router.get(
    "/models/{id:path}",
    response_model=ModelCard,
    responses=faults(OpenAIError, 400, 413, 415, 429),
    openapi_extra=named("id", "as /v1/models tells it; it may have slashes"),
)
async def model(request: Request) -> JSONResponse:
    served = current_model(request.app.state.engine().state())
    require_model(request.path_params["id"], served)
    return JSONResponse(_card(served))


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={**streams(ChatCompletionChunk), **faults(OpenAIError)},
    openapi_extra=takes(ChatRequest),
)
async def chat(request: Request) -> Response:
    """Answer the newest message of a talk."""
    body.require_json(request)
    asked = await body.read(request, ChatRequest)
    return await _reply(request, asked, [asked.talk()], ToolForm if asked.offered else ChatForm)


@router.post(
    "/completions",
    response_model=Completion,
    responses={**streams(Completion), **faults(OpenAIError)},
    openapi_extra=takes(CompletionRequest),
)
async def complete(request: Request) -> Response:
    """Continue a text as it is, without the chat template."""
    body.require_json(request)
    asked = await body.read(request, CompletionRequest)
    return await _reply(request, asked, asked.prompt, CompletionForm, echo=bool(asked.echo))


async def _reply(
    request: Request, asked: OpenAIAsked, prompts: Sequence[Prompt], form: type[Form], *, echo: bool = False
) -> Response:
    """All choices of all prompts, in this order. echo: with the prompt in front."""
    chat = form is not CompletionForm
    names = {"max_length": asked.limit_name(), "json_schema": "tools" if form is ToolForm else "response_format"}
    names |= {"prompt": "messages"} if chat else {}
    each = asked.n or 1
    state = request.app.state.engine().state()
    try:
        params = settings(asked, state.model)
        served = current_model(state)
        require_model(asked.model, served)
        if served.kind is ModelKind.BASE and chat:
            raise WrongModelKind(
                f"{served.id} is a base model, which cannot chat: send a text to /v1/completions.", param="messages"
            )
        echoes = await texts(request, prompts) if echo else [""] * len(prompts)
        answer = await start(request, [(prompt, choice(params, i)) for prompt in prompts for i in range(each)])
    except BlueLMError as error:
        raise in_words_of(names, error) from None
    forms = [form(i, one, echoes[i // each]) for i, one in enumerate(answer.generations)]
    reply = Reply(forms, served, each=each, tells_usage=asked.tells_usage)
    if asked.stream:
        return EventStream(answer, reply.events())
    try:
        await answer.ended(request.receive)
    except HungUp:
        return Response(status_code=499)
    return JSONResponse(reply.whole())


def require_model(wanted: str | None, served: ModelInfo) -> None:
    """Raises Refusal (404) for the id of another model."""
    if wanted is not None and wanted != served.id:
        shown = wanted if len(wanted) <= 80 else wanted[:77] + "..."
        raise Refusal(
            404, f"There is no model {shown!r} here: use {served.id!r}, or leave model out.", "model_not_found", "model"
        )


def _card(model: ModelInfo) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": STARTED,
        "owned_by": "bluelm-chat",
        "max_model_len": model.context,
        "kind": model.kind.value,
        "system_prompt": model.system_prompt,
        "tools": model.tools,
    }
