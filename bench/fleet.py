"""How much more several engines make than one: tokens per second of many chats at once, on cards or on a CPU.

    .venv/bin/python -m bench.fleet [--engines 1 2] [--chats 16] [--new 64] [--rounds 3] [--out FILE]

On cards each engine has one of its own. On a CPU each has its share of the cores, and so has the single one: with
--engines 1 2 on two cores, one core each. The settings are BLUELM_*, as for the app.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from bluelm.config import load_settings
from bluelm.engine import Engine, open_engine
from bluelm.types import Message, Phase, Role, SamplingParams

QUESTION = "Tell me a long story about the number {}, with many names, places and dates in it."


def ready(engines: int, most: int) -> Engine:
    threads = {"threads": max((os.cpu_count() or 1) // most, 1)}
    engine = open_engine(load_settings(engines=engines, **threads))
    while (state := engine.state()).engines_ready < engines:
        if state.phase is Phase.DOWN:
            raise SystemExit(state.detail)
        time.sleep(0.05)
    return engine


def rate(engine: Engine, chats: int, new: int, turn: int) -> float:
    """Tokens per second from the first question to the last token; fresh questions, so that no prompt is known."""
    params = SamplingParams(temperature=0.0, max_length=new)
    begun = time.perf_counter()
    asked = [engine.submit((Message(Role.USER, QUESTION.format(1000 * turn + chat)),), params) for chat in range(chats)]
    usages = [list(generation)[-1].usage for generation in asked]
    return sum(usage.completion_tokens for usage in usages if usage) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--chats", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    for engines in given.engines:
        engine = ready(engines, max(given.engines))
        rates = [rate(engine, given.chats, given.new, turn) for turn in range(given.rounds + 1)][1:]
        model = engine.state().model
        engine.close()
        rows.append({
            "engines": engines, "chats": given.chats, "new_tokens": given.new, "device": model and model.device,
            "model": model and model.id, "tokens_per_s": round(statistics.median(rates), 1),
        })  # fmt: skip
        rows[-1]["times_one"] = round(rows[-1]["tokens_per_s"] / rows[0]["tokens_per_s"], 2)  # type: ignore[operator]
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
