"""The sampler against transformers' own logits processors, and its laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from bluelm.engine import sampler
from bluelm.engine.sampler import sample_row, uniform
from bluelm.errors import InvalidParameter
from bluelm.types import SamplingParams


def reference(logits: torch.Tensor, params: SamplingParams, seen: list[int]) -> torch.Tensor:
    """Probabilities [vocab] as transformers would have them."""
    scores, ids = logits[None].clone(), torch.tensor([seen])
    if params.repetition_penalty != 1.0:
        scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(ids, scores)
    scores = TemperatureLogitsWarper(params.temperature)(ids, scores)
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(ids, scores)
    if params.top_p < 1.0:
        scores = TopPLogitsWarper(params.top_p)(ids, scores)
    return scores.softmax(-1)[0]


@pytest.mark.parametrize("vocab", [50, 2000])
@pytest.mark.parametrize("top_k", [0, 7, 1999])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3])
@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_draws_follow_the_distribution_of_transformers(
    vocab: int, top_k: int, top_p: float, temperature: float
) -> None:
    torch.manual_seed(vocab + top_k)
    logits = torch.randn(vocab) * 2
    seen = [3, 5, 5, 7]
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=1.2)
    expected = reference(logits, params, seen)
    draws = 500  # an even grid of draws visits each token in proportion to its probability, give or take one
    counts = torch.zeros(vocab)
    for i in range(draws):
        counts[sample_row(logits.clone(), params, seen, (i + 0.5) / draws)] += 1
    assert (counts - expected * draws).abs().max() <= 1.01
    assert expected[counts > 0].min() > 0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.999])
def test_how_many_tokens_are_looked_at_first_changes_nothing(
    temperature: float, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = 3 * torch.randn(3000, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(temperature=temperature, top_p=top_p)
    grid = [i / 200 for i in range(200)]
    texts = []
    for common in (3, 200, 10**9):  # the last one: all that is there is sorted
        monkeypatch.setattr(sampler, "COMMON", common)
        texts.append([sample_row(logits.clone(), params, [], draw) for draw in grid])
    assert texts[0] == texts[1] == texts[2]


def test_additions_come_before_all_else_and_count_the_answer_alone() -> None:
    torch.manual_seed(3)
    logits = torch.randn(40)
    answer = [4, 4, 4, 9]
    params = SamplingParams(
        temperature=0.9,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias=((4, 2.0), (7, 1.5)),
    )
    expected = logits.clone()
    expected[4] += 2.0 - 0.5 - 3 * 0.25
    expected[9] -= 0.5 + 0.25
    expected[7] += 1.5
    plain = SamplingParams(temperature=0.9, repetition_penalty=1.3)
    for draw in (0.05, 0.3, 0.55, 0.8, 0.99):
        ours = sample_row(logits.clone(), params, [2, 5, *answer], draw, answer)
        assert ours == sample_row(expected.clone(), plain, [2, 5, *answer], draw)
    forced = SamplingParams(temperature=0.0, logit_bias=((11, 100.0),))
    banned = SamplingParams(temperature=0.0, logit_bias=((int(logits.argmax()), -100.0),))
    assert sample_row(logits.clone(), forced, [], 0.5) == 11
    assert sample_row(logits.clone(), banned, [], 0.5) == int(logits.topk(2).indices[1])


@pytest.mark.parametrize(
    "name, bad",
    [
        ("presence_penalty", 2.1), ("frequency_penalty", -3), ("presence_penalty", True), ("logit_bias", {1: 2.0}),
        ("logit_bias", ((1, 101.0),)), ("logit_bias", ((-1, 1.0),)), ("logit_bias", ((1, 1.0), (1, 2.0))),
        ("logit_bias", ((1.5, 1.0),)), ("logit_bias", tuple((i, 1.0) for i in range(1025))),
        ("logit_bias", ((1, 2.0, 3.0),)), ("logit_bias", (5,)),
    ],
)  # fmt: skip
def test_bad_additions_are_refused_by_name(name: str, bad: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(**{name: bad})  # type: ignore[arg-type]
    assert caught.value.param == name


@settings(max_examples=60)
@given(st.integers(0, 2**63 - 1), st.integers(0, 40_000))
def test_draws_are_fractions_and_depend_on_seed_and_position(seed: int, position: int) -> None:
    draw = uniform(seed, position)
    assert 0.0 <= draw < 1.0
    assert draw == uniform(seed, position)
    assert draw != uniform(seed, position + 1)
    assert draw != uniform((seed + 1) % 2**63, position)


def test_draws_are_even() -> None:
    counts = torch.histc(torch.tensor([uniform(42, i) for i in range(20_000)]), bins=10, min=0, max=1)
    assert (counts - 2000).abs().max() < 220  # five standard deviations


def test_temperature_zero_takes_the_likeliest_and_penalty_counts_first() -> None:
    logits = torch.tensor([1.0, 3.0, 2.9, -1.0])
    assert sample_row(logits.clone(), SamplingParams(temperature=0.0), [], 0.9) == 1
    assert sample_row(logits.clone(), SamplingParams(temperature=0.0, repetition_penalty=1.5), [1], 0.9) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_give_no_token(bad: float) -> None:
    logits = torch.tensor([1.0, bad, 2.0])
    assert sample_row(logits, SamplingParams(), [], 0.5) == -1
    assert sample_row(torch.full((3,), float("-inf")), SamplingParams(), [], 0.5) == -1
