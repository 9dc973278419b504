"""GET /health: whether an answer can be made now, and the engine at a glance."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from bluelm import __version__
from bluelm.api.responses import Health, ServedModel
from bluelm.types import EngineState, Phase

router = APIRouter(tags=["the server"])


@router.get("/health", response_model=Health, responses={503: {"model": Health, "description": "not ready"}})
async def health(request: Request) -> JSONResponse:
    """200 when answers can be made; 503 while the model loads, restarts or is down."""
    state: EngineState = request.app.state.engine().state()
    ready = state.phase is Phase.READY
    return JSONResponse(_told(state), 200 if ready else 503, {"Cache-Control": "no-store"})


router.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)


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
