"""POST /: the tutorial's API."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bluelm.api import body
from bluelm.api.docs import faults, takes
from bluelm.api.requests import TutorialRequest
from bluelm.api.responses import TutorialAnswer, TutorialError
from bluelm.api.serving import HungUp, current_model, ending, settings, start
from bluelm.errors import InvalidParameter
from bluelm.types import Message, ModelKind, Prompt, Role

router = APIRouter(tags=["the tutorial's API"])


@router.post(
    "/",
    response_model=TutorialAnswer,
    responses=faults(TutorialError, 404, 415),
    openapi_extra=takes(TutorialRequest),
)
async def answer(request: Request) -> Response:
    """Ask one question and get the whole answer."""
    asked = await body.read(request, TutorialRequest)
    if not asked.prompt.strip():
        raise InvalidParameter("prompt", asked.prompt, "a text that says something")
    state = request.app.state.engine().state()
    params = settings(asked, state.model)
    base = current_model(state).kind is ModelKind.BASE
    prompt: Prompt = asked.prompt if base else (Message(Role.USER, asked.prompt),)
    making = await start(request, [(prompt, params)])
    try:
        await making.ended(request.receive)
    except HungUp:
        return Response(status_code=499)
    (made,) = making.generations
    ending(made)
    text = made.text
    response = f"{asked.prompt} {text}" if asked.echo else text
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return JSONResponse({"response": response, "status": 200, "time": now})
