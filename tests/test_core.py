"""The engine's core with a runner whose memory runs out: answers go on, with smaller steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bluelm.engine.cache import BlockPool
from bluelm.engine.core import EngineCore, Request
from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.likely import Likely
from bluelm.engine.opening import embedded_model
from bluelm.engine.scheduler import Piece, Scheduler
from bluelm.engine.tokenizer import from_gguf
from bluelm.engine.wire import Failed, Grown
from bluelm.errors import OutOfMemory
from bluelm.types import FinishReason, SamplingParams

TOKENIZER = from_gguf(GGUFFile.open(embedded_model()).metadata)


class Small:
    """Says the same token for ever, in steps of `most` tokens at most."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.fewest = self.refused = 0
        self.likely: dict[str, Likely] = {}
        self.scores: dict[str, list[Likely]] = {}
        self.ran: list[int] = []

    def run(self, pieces: Sequence[Piece]) -> list[int | None]:
        count = sum(piece.count for piece in pieces)
        if not self.fewest <= count <= self.most:
            self.refused += 1
            raise OutOfMemory("no room for that")
        self.ran.append(count)
        self.scores = {piece.row.id: [Likely(-float(place), ()) for place in piece.scores] for piece in pieces}
        self.likely = {piece.row.id: Likely(-0.5, ()) for piece in pieces}
        return [300 if piece.samples else None for piece in pieces]


GREEDY = SamplingParams(temperature=0.0)


def served(
    most: int, prompts: Sequence[int], params: SamplingParams = GREEDY, new: int = 6
) -> tuple[list[Grown | Failed], Small]:
    runner = Small(most)
    scheduler = Scheduler(BlockPool(200, 16), max_running=8, step_tokens=256, alone_tokens=512)
    core = EngineCore(scheduler, runner, TOKENIZER)
    for index, length in enumerate(prompts):
        core.add(Request(str(index), [5] * length, params, 0, new, time.monotonic()))
    news: list[Grown | Failed] = []
    while not core.idle:
        news += core.step()
    return news, runner


def test_a_step_that_does_not_fit_is_computed_in_smaller_ones() -> None:
    news, runner = served(100, [700, 30, 400])
    ends = [said for said in news if isinstance(said, Grown) and said.finish]
    assert [end.finish for end in ends] == [FinishReason.LENGTH] * 3 and len(news) == len(ends) + sum(
        isinstance(said, Grown) and said.finish is None for said in news
    )
    assert max(runner.ran) <= 100
    assert all(end.usage and end.usage.completion_tokens == 6 for end in ends)


def test_what_fits_in_no_step_fails_and_the_engine_goes_on() -> None:
    news, _ = served(0, [40, 3])
    assert [said.error["code"] for said in news if isinstance(said, Failed)] == ["out_of_memory"] * 2


@pytest.mark.parametrize("new", [0, 2])
def test_a_prompts_tokens_are_told_in_order_and_once_before_any_new_one(new: int) -> None:
    """In steps that get smaller, and where no answer is wanted at all."""
    lengths = [700, 1, 30, 400]
    news, _ = served(100, lengths, replace(GREEDY, logprobs=0, prompt_logprobs=True), new)
    for index, length in enumerate(lengths):
        grown = [said for said in news if isinstance(said, Grown) and said.id == str(index)]
        assert [told.logprob for said in grown for told in said.prompt] == [-float(place) for place in range(length)]
        assert sum(len(said.tokens) for said in grown) == new == sum(bool(said.tokens) for said in grown)
        begun = next((i for i, said in enumerate(grown) if said.tokens), len(grown) - 1)
        assert not any(said.prompt for said in grown[begun + 1 :])
        usage = grown[-1].usage
        assert grown[-1].finish is FinishReason.LENGTH and usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (length, new, 0)


def test_a_step_that_could_be_no_smaller_makes_no_other_one_smaller() -> None:
    """A new token for each row: what has no room for that fails, and prompts are computed as fast as before."""
    runner, scheduler = Small(10_000), Scheduler(BlockPool(200, 16), max_running=8, step_tokens=256, alone_tokens=512)
    core = EngineCore(scheduler, runner, TOKENIZER)
    runner.fewest = 2
    core.add(Request("0", [5] * 300, GREEDY, 0, 6, time.monotonic()))
    news = [*core.step(), *core.step()]
    assert [said.error["code"] for said in news if isinstance(said, Failed)] == ["out_of_memory"]
    assert (scheduler.alone_tokens, scheduler.step_tokens) == (512, 256) and core.idle


def test_steps_are_as_large_as_at_first_once_there_is_memory_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took the memory may have gone; where not, larger steps are tried ever more seldom."""
    now = 1000.0
    monkeypatch.setattr("bluelm.engine.core.time.monotonic", lambda: now)
    runner, scheduler = Small(100), Scheduler(BlockPool(200, 16), max_running=8, step_tokens=256, alone_tokens=512)
    core = EngineCore(scheduler, runner, TOKENIZER)
    core.add(Request("0", [5] * 300, GREEDY, 0, 2000, now))
    for _ in range(120):
        core.add(Request(str(now), [5] * 300, GREEDY, 0, 1, now))
        core.step()
        now += 60
    assert 3 < runner.refused < 12
    runner.most = 10_000
    for _ in range(10):
        core.step()
        now += 3600
    assert (scheduler.alone_tokens, scheduler.step_tokens) == (512, 256)
