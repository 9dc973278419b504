"""How long the engine takes from the start of its process to the first token, phase by phase.

    .venv/bin/python -m bench.start [--runs 2] [--cold] [--out FILE]

Settings are taken from BLUELM_* as by the app (BLUELM_MODEL: a folder, for instance one of `bench.load write DIR`).
--cold: Triton's cache of compiled kernels is an empty folder at each start; without it the usual one is used, which is
warm from the second run on. The files of the model are in the system's cache if they were read before.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bluelm.config import load_settings
from bluelm.engine.client import EngineProcess
from bluelm.types import Message, Phase, Role, SamplingParams

QUESTION = (Message(Role.USER, "你好，请介绍一下你自己。"),)


def start(*, cold: bool) -> dict[str, Any]:
    """Seconds: of each phase of the load, until ready, and until the first token of a short question."""
    settings = load_settings()
    with ExitStack() as folders:
        environment = {}
        if cold:
            environment["TRITON_CACHE_DIR"] = folders.enter_context(tempfile.TemporaryDirectory())
        begun = time.perf_counter()
        engine = EngineProcess(settings, environment)
        try:
            phases = watch(engine, begun)
            ready = time.perf_counter() - begun
            prompt: Any = QUESTION if (model := engine.state().model) and model.kind == "chat" else QUESTION[0].content
            generation = engine.submit(prompt, SamplingParams(temperature=0.0, max_length=8))
            generation.wait(0, timeout=60)
            first = time.perf_counter() - begun
            state = engine.state()
        finally:
            engine.close()
    return {
        "cold_kernels": cold,
        "phases_s": {name: round(seconds, 2) for name, seconds in phases.items()},
        "ready_s": round(ready, 2),
        "first_token_s": round(first, 2),
        "model": state.model and [state.model.id, state.model.dtype, state.model.device],
        "cache_tokens": state.cache_total,
    }


def watch(engine: EngineProcess, begun: float) -> dict[str, float]:
    """Seconds of each phase until the engine is ready."""
    phases: dict[str, float] = {}
    last, since = "starting", begun
    while (state := engine.state()).phase is not Phase.READY:
        if state.phase is Phase.DOWN:
            raise SystemExit(state.detail)
        now = time.perf_counter()
        if state.detail not in ("", last):
            phases[last] = phases.get(last, 0.0) + now - since
            last, since = state.detail, now
        time.sleep(0.002)
    phases[last] = phases.get(last, 0.0) + time.perf_counter() - since
    return phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    runs = []
    for _ in range(given.runs):
        runs.append(start(cold=given.cold))
        print(json.dumps(runs[-1], ensure_ascii=False), flush=True)
    if given.out:
        given.out.write_text(json.dumps(runs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
