"""How much more several engines make than one: tokens per second of many chats at once, on cards or on a CPU.

    .venv/bin/python -m bench.fleet [--engines 1 2] [--chats 16 32] [--new 64] [--rounds 3] [--out FILE]

On cards each engine has one of its own. On a CPU each has its share of the cores, and so has the single one: with
--engines 1 2 on two cores, one core each. The settings are BLUELM_*, as for the app. A row compares with one engine
twice: with as many chats in all, and with as many chats for each engine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

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
    parser.add_argument("--chats", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    alone: dict[int, float] = {}
    for engines in given.engines:
        engine = ready(engines, max(given.engines))
        for chats in given.chats:
            rates = [rate(engine, chats, given.new, turn) for turn in range(given.rounds + 1)][1:]
            middle = statistics.median(rates)
            if engines == 1:
                alone[chats] = middle
            model = engine.state().model
            rows.append({
                "engines": engines, "chats": chats, "new_tokens": given.new, "device": model and model.device,
                "model": model and model.id, "tokens_per_s": round(middle, 1),
                "times_one": round(middle / alone[chats], 2) if chats in alone else None,
                "times_one_with_its_share": round(middle / alone[chats // engines], 2)
                if chats // engines in alone
                else None,
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
            if given.out:
                given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        engine.close()


if __name__ == "__main__":
    main()
