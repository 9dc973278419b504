"""What a step of the engine costs beside the model: planning, characters, and the news on the line to the app.

    .venv/bin/python -m bench.overhead [--rows 1 8 32 64] [--new 512]

A runner that costs nothing says random tokens; another process takes the news in, as the app does. With a real model
most of this is hidden, since the card computes the next step meanwhile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe

from bluelm.engine.cache import BlockPool
from bluelm.engine.core import EngineCore, Request
from bluelm.engine.generation import Generation
from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.likely import Likely
from bluelm.engine.opening import embedded_model
from bluelm.engine.scheduler import Piece, Scheduler
from bluelm.engine.tokenizer import Tokenizer, from_gguf
from bluelm.engine.wire import Line, Step, ToApp, ToEngine
from bluelm.types import Chunk, SamplingParams


class Saying:
    """A runner that says random tokens at once."""

    def __init__(self, size: int) -> None:
        self.tokens = [random.randrange(1000, size) for _ in range(10007)]
        self.turn = 0
        self.likely: dict[str, Likely] = {}
        self.scores: dict[str, list[Likely]] = {}

    def run(self, pieces: Sequence[Piece]) -> list[int | None]:
        self.turn += len(pieces)
        return [self.tokens[(self.turn + i) % 10007] if p.samples else None for i, p in enumerate(pieces)]


def app(connection: Connection) -> None:
    """Take the news in as the app does."""
    line = Line(connection, ToApp)
    answers: dict[str, Generation] = {}
    while True:
        try:
            said = line.receive()
        except EOFError:
            return
        for grown in said.news:
            answer = answers.setdefault(grown.id, Generation(grown.id, model="", prompt_tokens=1, window=1, seed=0))
            answer.push(Chunk(grown.text, grown.finish, grown.usage))


def measure(tokenizer: Tokenizer, rows: int, new: int) -> tuple[float, float, float]:
    """Median microseconds of a step, of its sending, and of both for the slowest hundredth."""
    ours, theirs = Pipe()
    process = multiprocessing.get_context("spawn").Process(target=app, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    line = Line(ours, ToEngine)
    pool = BlockPool(rows * (new // 16 + 4), 16)
    core = EngineCore(Scheduler(pool, max_running=rows, step_tokens=1024), Saying(tokenizer.size), tokenizer)
    for index in range(rows):
        core.add(Request(f"1a2b-18c3d4e5f6a7b8c-{index}", [5] * 20, SamplingParams(), 0, new, time.monotonic()))
    steps, sends = [], []
    while not core.idle:
        begun = time.perf_counter()
        news = core.step()
        stepped = time.perf_counter()
        if news:
            line.send(Step(tuple(news)))
        steps.append(stepped - begun)
        sends.append(time.perf_counter() - stepped)
    line.close()
    process.join(10)
    both = sorted(a + b for a, b in zip(steps, sends, strict=True))
    return 1e6 * statistics.median(steps), 1e6 * statistics.median(sends), 1e6 * both[int(len(both) * 0.99)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--new", type=int, default=512)
    given = parser.parse_args()
    tokenizer = from_gguf(GGUFFile.open(embedded_model()).metadata)
    for rows in given.rows:
        step, send, slow = measure(tokenizer, rows, given.new)
        print(f"{rows:3} rows: step {step:6.0f} us, send {send:5.0f} us, slowest hundredth {slow:6.0f} us", flush=True)


if __name__ == "__main__":
    main()
