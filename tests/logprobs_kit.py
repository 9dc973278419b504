"""Requests that ask for log-probabilities, through any runner, and what transformers says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from bluelm.engine.likely import Likely
from bluelm.engine.scheduler import BlockPool, Scheduler
from bluelm.types import SamplingParams
from tests.tiny import BLOCK, VOCAB, row

GREEDY = SamplingParams(temperature=0.0, logprobs=20)
WARPED = SamplingParams(temperature=1.4, top_k=9, top_p=0.9, repetition_penalty=1.5, logprobs=3)
QUIET = SamplingParams(temperature=1.0)
PROMPTS = [[5, 9, 77, 3, 2, 2, 40, 8, 8, 1, 90, 14, 3, 3, 61, 7, 12], [4], [100, 101, 9]]


def made(
    runner_of: Callable[..., Any], model: Any, prompts: Sequence[list[int]], params: Sequence[SamplingParams], new: int,
    *, blocks: int = 64, guides: Sequence[Any] = (), scores: dict[str, dict[int, Likely]] | None = None,
) -> list[tuple[list[int], list[Likely]]]:  # fmt: skip
    """Each prompt with its answer, and what the runner told of each new token; all at once, prompts in pieces.

    scores: gets what it told of the places of the prompts, by row and place.
    """
    runner = runner_of(model, blocks=blocks, block_size=BLOCK, vocab=VOCAB)
    scheduler = Scheduler(BlockPool(blocks, BLOCK), max_running=4, step_tokens=16)
    rows = [row(str(i), prompt, new, p, seed=i) for i, (prompt, p) in enumerate(zip(prompts, params, strict=True))]
    told: dict[str, list[Likely]] = {each.id: [] for each in rows}
    for each, guide in zip(rows, guides or [None] * len(rows), strict=True):
        each.guide = guide
        scheduler.add(each)
    while not scheduler.idle:
        pieces = scheduler.plan()
        asking = {piece.row.id for piece in pieces if piece.samples and piece.row.params.logprobs is not None}
        for piece, token in zip(pieces, runner.run(pieces), strict=True):
            for place, likely in zip(piece.scores, runner.scores.get(piece.row.id, ()), strict=True):
                assert scores is not None and place not in scores[piece.row.id], "told twice, or to nobody"
                scores[piece.row.id][place] = likely
            scheduler.commit(piece, token)
            if token is not None and piece.row.guide is not None:
                piece.row.guide.take(token)
            assert set(runner.likely) == asking, "a row that does not ask was computed too"
            if token is not None and piece.row.params.logprobs is not None:
                told[piece.row.id].append(runner.likely[piece.row.id])
            if token is not None and len(piece.row.tokens) >= piece.row.max_tokens:
                scheduler.remove(piece.row)
    return [(each.tokens, told[each.id]) for each in rows]


@torch.inference_mode()
def check_prompts(runner_of: Callable[..., Any], model: Any, theirs: Any, new: int, blocks: int, within: float) -> None:
    """Prompts' tokens are told as transformers has them, each once, beside rows that do not ask, where rows are put
    back and where the cache knows the prompt."""
    asking = replace(GREEDY, logprobs=2, prompt_logprobs=True)
    scores: dict[str, dict[int, Likely]] = {str(i): {} for i in range(4)}
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[2]]
    rows = made(runner_of, model, prompts, [QUIET, asking, asking, asking], new, blocks=blocks, scores=scores)
    for (tokens, _), prompt, told in zip(rows[1:], prompts[1:], list(scores.values())[1:], strict=True):
        assert list(told) == list(range(1, len(prompt)))
        if told:
            check(theirs, prompt[:1], tokens[: len(prompt)], list(told.values()), 2, within)
    assert not scores["0"]


def check(theirs: Any, prompt: list[int], tokens: list[int], told: list[Likely], top: int, within: float) -> None:
    """Against transformers' logits for the whole text."""
    logprobs = theirs(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    assert len(told) == len(tokens) - len(prompt)
    for place, likely in enumerate(told, start=len(prompt)):
        right = logprobs[place - 1]
        assert likely.logprob == pytest.approx(float(right[tokens[place]]), abs=within)
        assert [logprob for _, logprob in likely.top] == pytest.approx(right.topk(top).values.tolist(), abs=within)
        assert [logprob for _, logprob in likely.top] == pytest.approx(
            right[[id for id, _ in likely.top]].tolist(), abs=within
        )
