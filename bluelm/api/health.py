"""For those who watch the server: /health, live and ready, and /metrics for Prometheus."""

from __future__ import annotations

from dataclasses import asdict

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bluelm import __version__, metrics
from bluelm.api.responses import Health, ServedModel, Status
from bluelm.guest import guest_of
from bluelm.types import EngineState, Phase

NOT_KEPT = {"Cache-Control": "no-store"}
TEXT = "text/plain"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
router = APIRouter(tags=["the server"])


@router.get("/health", response_model=Health, responses={503: {"model": Health, "description": "not ready"}})
async def health(request: Request) -> JSONResponse:
    """200 when answers can be made; 503 while the model loads, restarts or is down.

    Needs no passcode; without one it tells no more than that.
    """
    state: EngineState = request.app.state.engine().state()
    if guest_of(request.scope) is None:
        state = EngineState(state.phase, state.progress)
    ready = state.phase is Phase.READY
    return JSONResponse(_told(state), 200 if ready else 503, NOT_KEPT)


@router.get("/health/live", response_model=Status)
async def live() -> JSONResponse:
    """200 as long as the server answers at all, whatever its engine does: start it again where this fails."""
    return JSONResponse({"status": "ok"}, 200, NOT_KEPT)


@router.get("/health/ready", response_model=Status, responses={503: {"model": Status, "description": "not ready"}})
async def ready(request: Request) -> JSONResponse:
    """200 when answers can be made; 503 while the model loads, restarts or is down, and while the server ends."""
    state: EngineState = request.app.state.engine().state()
    ready = state.phase is Phase.READY
    return JSONResponse({"status": "ok" if ready else state.phase.value}, 200 if ready else 503, NOT_KEPT)


@router.get("/metrics", response_class=Response, responses={200: {"content": {TEXT: {}}, "description": "figures"}})
async def figures(request: Request) -> Response:
    """What Prometheus reads: requests, tokens, times, errors, the cache, the cards, the engine's phase."""
    state = await to_thread.run_sync(request.app.state.engine().state)
    return Response(metrics.exposition(state), headers={**NOT_KEPT, "Content-Type": PLAIN})


for path, endpoint in (("/health", health), ("/health/live", live), ("/health/ready", ready)):
    router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


def _told(state: EngineState) -> dict[str, object]:
    model = None if state.model is None else asdict(state.model)
    return {
        "status": "ok" if state.phase is Phase.READY else state.phase.value,
        "phase": state.detail or state.phase.value,
        "progress": round(state.progress * 100, 1),
        "model": model and {name: model[name] for name in ServedModel.model_fields},
        "running": state.running,
        "waiting": state.waiting,
        "cache_used": state.cache_used,
        "cache_total": state.cache_total,
        "gpu_memory_used": state.gpu_memory_used,
        "gpu_memory_total": state.gpu_memory_total,
        "engines": state.engines,
        "engines_ready": state.engines_ready,
        "restarts": state.restarts,
        "version": __version__,
    }
