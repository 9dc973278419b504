"""Answers on their way to one client over HTTP. When the client hangs up, the engine stops making them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from bluelm import asking
from bluelm.api.requests import Asked
from bluelm.api.trace import caller
from bluelm.engine import Engine, Generation
from bluelm.errors import EngineDown, EngineLoading, GenerationFailed, InvalidParameter
from bluelm.guest import guest_of
from bluelm.types import NOBODY, Caller, EngineState, FinishReason, ModelInfo, Phase, Prompt, SamplingParams, Usage

SEND_S = 30.0  # a client that reads nothing for so long is taken for gone
T = TypeVar("T")
Wanted = tuple[Prompt, SamplingParams]


class HungUp(Exception):
    """The client is gone: there is nobody to answer."""


class Answer:
    """Ties generations to their client: `leave` cancels them, even while some are still being submitted on a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = False
        self.generations: list[Generation] = []

    def submit(self, engine: Engine, wanted: Sequence[Wanted], caller: Caller = NOBODY) -> None:
        """Have all of them begun, or none. Raises what Engine.submit raises."""
        try:
            for prompt, params in wanted:
                generation = asking.submit(engine, prompt, params, caller)
                with self._lock:
                    self.generations.append(generation)
                    left = self._left
                if left:
                    generation.cancel()
                    return
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """The client takes no more. Harmless after the end."""
        with self._lock:
            self._left = True
            generations = list(self.generations)
        for generation in generations:
            generation.cancel()

    async def ended(self, receive: Receive) -> None:
        """Return once all have come to their ends. Raises the error of one, or HungUp."""
        try:
            await unless_hung_up(receive, _read(self.generations))
        finally:
            self.leave()


async def _read(generations: Sequence[Generation]) -> None:
    for generation in generations:
        async for _ in generation:
            pass


def ending(generation: Generation) -> tuple[FinishReason, Usage]:
    """How an answer ended. Raises GenerationFailed where somebody else than its client stopped it."""
    reason = generation.finish_reason
    if reason is None or reason is FinishReason.CANCELLED:
        raise GenerationFailed("The answer was stopped by the server before its end: send the request again.")
    return reason, generation.usage or Usage()


def current_model(state: EngineState) -> ModelInfo:
    """The model that is served. Raises EngineLoading or EngineDown while none is known."""
    if state.model is not None:
        return state.model
    if state.phase is Phase.DOWN:
        raise EngineDown(f"The engine is down: {state.detail or 'see the log, then start the app again.'}")
    raise EngineLoading(state.detail or state.phase.value, state.progress)


def settings(asked: Asked, model: ModelInfo | None) -> SamplingParams:
    """What was asked, and the model's own defaults for the rest. Raises InvalidParameter."""
    return replace(model.defaults if model else SamplingParams(), **asked.sampling())


def within(limit: int | None, params: SamplingParams) -> SamplingParams:
    """The same, within the tokens that a guest may have. Raises InvalidParameter where more are asked for."""
    if limit is None:
        return params
    if params.max_length is None:
        return replace(params, max_length=limit)
    if params.max_length > limit:
        raise InvalidParameter("max_length", params.max_length, f"at most {limit} with this API key")
    return params


async def start(request: Request, wanted: Sequence[Wanted]) -> Answer:
    """Have the engine begin with all that is wanted. Raises what Engine.submit raises, and InvalidParameter."""
    guest = guest_of(request.scope)
    wanted = [(prompt, within(guest.max_tokens if guest else None, params)) for prompt, params in wanted]
    answer = Answer()
    engine, threads = request.app.state.engine(), request.app.state.submits
    try:
        await to_thread.run_sync(answer.submit, engine, wanted, caller(request), limiter=threads)
    except asyncio.CancelledError:
        answer.leave()
        raise
    return answer


async def texts(request: Request, prompts: Sequence[Prompt]) -> list[str]:
    """What prompts say: of tokens their bytes, of which control tokens have none. Raises as Engine.tokenize."""
    engine, threads = request.app.state.engine(), request.app.state.submits

    def text(prompt: Prompt) -> str:
        return b"".join(token.utf8 for token in engine.tokenize(prompt).tokens).decode("utf-8", "replace")

    return [
        prompt if isinstance(prompt, str) else await to_thread.run_sync(text, prompt, limiter=threads)
        for prompt in prompts
    ]


async def unless_hung_up(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is stopped when the client hangs up. Raises HungUp then."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HungUp
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _soon(send: Send) -> Send:
    """`send`, which raises TimeoutError where the client's side is full and stays so."""

    async def sent(message: Message) -> None:
        async with asyncio.timeout(SEND_S):
            await send(message)

    return sent


class EventStream(StreamingResponse):
    """Server-sent events, each flushed at once; `answer` ends with its client."""

    def __init__(self, answer: Answer, events: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_hung_up(receive, self.stream_response(_soon(send)))
        except (HungUp, OSError):  # OSError: nobody takes what is sent
            pass
        finally:
            self._answer.leave()
