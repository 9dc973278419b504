"""Log-probabilities of what was sampled: the model's own, in float32, whatever else is asked and whoever is beside."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bluelm.engine.cache import BlockPool
from bluelm.engine.likely import Likely, ranked
from bluelm.engine.runner import SCORED, Runner
from bluelm.engine.sampler import likeliest
from bluelm.engine.scheduler import Scheduler
from bluelm.errors import InvalidParameter
from bluelm.types import SamplingParams
from tests.logprobs_kit import GREEDY, PROMPTS, QUIET, WARPED, check, check_prompts, made
from tests.tiny import BLOCK, VOCAB, row, tiny_llama


@torch.inference_mode()
def test_they_are_the_models_own_alone_and_in_company_whatever_else_is_asked() -> None:
    model, theirs = tiny_llama(kv_heads=2)
    together = made(Runner, model, PROMPTS, [GREEDY, WARPED, QUIET], 12)
    for prompt, params, (tokens, told) in zip(PROMPTS[:2], [GREEDY, WARPED], together[:2], strict=True):
        check(theirs, prompt, tokens, told, params.logprobs or 0, within=1e-4)
    assert [likely.top[0][0] for likely in together[0][1]] == together[0][0][-12:], "the greedy token is the likeliest"
    alone = made(Runner, model, PROMPTS[:1], [GREEDY], 12)
    assert alone[0][0] == together[0][0]
    for one, other in zip(alone[0][1], together[0][1], strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("blocks", [64, 5])
def test_those_of_a_prompt_are_the_models_own_and_told_once(blocks: int) -> None:
    check_prompts(Runner, *tiny_llama(kv_heads=2), 40, blocks, within=1e-4)


def test_those_of_a_long_prompt_are_made_in_pieces() -> None:
    model, theirs = tiny_llama()
    prompt = [(7 * i * i + 3) % VOCAB for i in range(SCORED * 3)]
    asking = SamplingParams(temperature=0.0, logprobs=1, prompt_logprobs=True)
    most, logits = 0, model.logits

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal most
        most = max(most, len(hidden))
        return logits(hidden)

    model.logits = counted  # type: ignore[method-assign]
    scheduler = Scheduler(BlockPool(64, BLOCK), max_running=1, step_tokens=len(prompt))
    runner = Runner(model, blocks=64, block_size=BLOCK, vocab=VOCAB)
    scheduler.add(row("0", prompt, 1, asking))
    (piece,) = scheduler.plan()
    runner.run([piece])
    with torch.inference_mode():
        check(theirs, prompt[:1], prompt, runner.scores["0"], 1, within=1e-4)
    assert most == SCORED


@torch.inference_mode()
def test_asking_changes_no_token() -> None:
    model, _ = tiny_llama()
    asked = [SamplingParams(temperature=0.9, top_p=0.9, repetition_penalty=1.2, logprobs=n) for n in (None, 0, 20)]
    tokens = [made(Runner, model, PROMPTS, [params] * 3, 10) for params in asked]
    assert [[one for one, _ in each] for each in tokens].count([one for one, _ in tokens[0]]) == 3
    assert all(likely.top == () for _, told in tokens[1] for likely in told)


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40), st.integers(0, 20), st.data())
def test_they_are_a_distribution_likeliest_first(values: list[float], count: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(values) - 1))
    likely = likeliest(torch.tensor([values]), torch.tensor([token]), count).of(0, count)
    exact = torch.tensor(values, dtype=torch.float64).log_softmax(-1)
    assert likely.logprob == pytest.approx(float(exact[token]), abs=1e-4) and likely.logprob <= 1e-6
    top = [logprob for _, logprob in likely.top]
    assert len(top) == min(count, len(values)) == len({id for id, _ in likely.top})
    assert top == sorted(top, reverse=True) and math.fsum(map(math.exp, top)) <= 1 + 1e-5
    assert top == pytest.approx(exact.sort(descending=True).values[: len(top)].tolist(), abs=1e-4)
    assert all(logprob == pytest.approx(float(exact[id]), abs=1e-4) for id, logprob in likely.top)
    if top and likely.logprob >= top[-1]:
        assert token in [id for id, _ in likely.top], "as likely as what is told, and not told"


def test_of_equals_the_chosen_one_is_told() -> None:
    assert ranked(7, -1.0, [3, 2], [-0.5, -1.0]) == Likely(-1.0, ((3, -0.5), (7, -1.0)))
    assert ranked(2, -1.0, [9, 2], [-1.0, -1.0]).top == ((2, -1.0), (9, -1.0))
    assert ranked(5, -9.0, [3], [-0.5]).top == ((3, -0.5),)


@pytest.mark.parametrize("bad", [-1, 21, True, 2.0, "5"])
def test_how_many_is_checked(bad: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(logprobs=bad)  # type: ignore[arg-type]
    assert caught.value.param == "logprobs"
