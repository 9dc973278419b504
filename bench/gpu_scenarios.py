"""What a person waits for: a chat's tenth turn, a newcomer among 32 others, a prompt of 30,000 tokens."""

from __future__ import annotations

import gc
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from bluelm.engine.cache import BlockPool
from bluelm.engine.gpu.runner import GpuRunner
from bluelm.engine.model import Llama, LlamaConfig, Weights
from bluelm.engine.runner import Runner
from bluelm.engine.scheduler import Row, Scheduler
from bluelm.types import SamplingParams

BLOCK = 16
STEP_TOKENS = 1024  # prompt tokens computed in a step beside the answers: between the newcomer's wait and the others'
GREEDY = SamplingParams(temperature=0.0)
QUESTION, ANSWER, TURNS = 50, 110, 10  # tokens; ten turns have 1,440 tokens of history
LONG = 30_000


def random_tokens(count: int, vocab: int) -> list[int]:
    return [random.randrange(10, vocab) for _ in range(count)]


class Bench:
    """A runner with its scheduler, and a clock for each token of each row.

    decoding: of the steps that only decode: rows, when it began, when its tokens were there.
    """

    def __init__(
        self, runner: Runner | GpuRunner, vocab: int, max_running: int, step_tokens: int = STEP_TOKENS
    ) -> None:
        self.runner, self.vocab = runner, vocab
        self.scheduler = Scheduler(BlockPool(runner.blocks, BLOCK), max_running=max_running, step_tokens=step_tokens)
        self.times: dict[Row, list[float]] = {}
        self.decoding: list[tuple[int, float, float]] = []
        self._ids = itertools.count()

    def tokens(self, count: int) -> list[int]:
        return random_tokens(count, self.vocab)

    def ask(self, prompt: list[int], new: int, params: SamplingParams = GREEDY, seed: int = 0) -> Row:
        """A request that enters now; the first of its times is this moment."""
        row = Row(str(next(self._ids)), list(prompt), params, seed, len(prompt) + new)
        self.times[row] = [time.perf_counter()]
        self.scheduler.add(row)
        return row

    def step(self) -> None:
        pieces = self.scheduler.plan()
        before = time.perf_counter()
        tokens = self.runner.run(pieces)
        now = time.perf_counter()
        if all(piece.count == 1 for piece in pieces):
            self.decoding.append((len(pieces), before, now))
        for piece, token in zip(pieces, tokens, strict=True):
            self.scheduler.commit(piece, token)
            if token is not None:
                self.times[piece.row].append(now)
            if len(piece.row.tokens) == piece.row.max_tokens:
                self.scheduler.remove(piece.row)

    def finish(self) -> None:
        while not self.scheduler.idle:
            self.step()

    def first_ms(self, row: Row) -> float:
        asked, first = self.times[row][:2]
        return 1e3 * (first - asked)


def measure(config: LlamaConfig, weights: Weights, vocab: int) -> Iterator[dict[str, Any]]:
    """A row for each scenario; times in ms."""
    runner = _runner(config, weights, vocab, tokens=40_000, rows=64)
    yield _median([_chat(Bench(runner, vocab, 1)) for _ in range(4)][1:])
    for prompt in (128, 1500):
        yield _median([_newcomer(Bench(runner, vocab, 64), prompt) for _ in range(4)][1:])
    del runner
    gc.collect()
    torch.cuda.empty_cache()
    long = replace(config, context=32_768)
    runner = _runner(long, weights, vocab, tokens=LONG + 512, rows=1)
    yield _median([_long(Bench(runner, vocab, 1)) for _ in range(3)][1:])


def _runner(config: LlamaConfig, weights: Weights, vocab: int, *, tokens: int, rows: int) -> GpuRunner:
    runner = GpuRunner(Llama(config, weights), blocks=tokens // BLOCK, block_size=BLOCK, vocab=vocab, max_running=rows)
    while runner.prepare():
        pass
    return runner


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Number by number."""
    first = runs[0]
    return {
        name: round(statistics.median(run[name] for run in runs), 2) if isinstance(value, float) else value
        for name, value in first.items()
    }


def _chat(bench: Bench) -> dict[str, Any]:
    history: list[int] = []
    firsts = []
    for _ in range(TURNS):
        row = bench.ask(history + bench.tokens(QUESTION), ANSWER)
        bench.finish()
        firsts.append(bench.first_ms(row))
        history = list(row.tokens)
    return {
        "scenario": "chat", "question_tokens": QUESTION, "answer_tokens": ANSWER, "turns": TURNS,
        "ttft_ms_turn_1": firsts[0], "ttft_ms_last_turn": firsts[-1], "last_to_first": firsts[-1] / firsts[0],
    }  # fmt: skip


def _newcomer(bench: Bench, prompt: int) -> dict[str, Any]:
    others = [bench.ask(bench.tokens(128), 200) for _ in range(32)]
    while min(len(bench.times[row]) for row in others) < 50:
        bench.step()
    newcomer = bench.ask(bench.tokens(prompt), 20)
    begun = {row: len(bench.times[row]) - 1 for row in others}
    while len(bench.times[newcomer]) < 21:
        bench.step()
    pauses = [
        later - earlier for row in others for earlier, later in itertools.pairwise(bench.times[row][begun[row] :])
    ]
    bench.finish()
    return {
        "scenario": "newcomer among 32", "prompt_tokens": prompt, "step_tokens": STEP_TOKENS,
        "ttft_ms": bench.first_ms(newcomer), "longest_pause_ms": 1e3 * max(pauses),
    }  # fmt: skip


def _long(bench: Bench) -> dict[str, Any]:
    row = bench.ask(bench.tokens(LONG), 129)
    bench.finish()
    times = bench.times[row]
    return {
        "scenario": "long prompt", "prompt_tokens": LONG, "step_tokens": STEP_TOKENS, "ttft_ms": bench.first_ms(row),
        "decode_tokens_per_s": (len(times) - 2) / (times[-1] - times[1]),
    }  # fmt: skip
