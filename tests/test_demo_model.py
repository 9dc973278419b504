"""The embedded model's numbers: float32 as in transformers, token for token, and four bits near float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bluelm.engine.attention import RowGroup, Span, Step
from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.gguf_weights import gguf_config, load_gguf
from bluelm.engine.likely import Likely
from bluelm.engine.linear import Form
from bluelm.engine.model import KVCache, Llama
from bluelm.engine.opening import embedded_model
from bluelm.engine.runner import Runner
from bluelm.engine.tokenizer import Tokenizer, from_gguf
from bluelm.types import Message, Role, SamplingParams
from tests.logprobs_kit import made
from tests.tiny import engine_parts, greedy, row, step

QUESTIONS = [
    "What is the capital of France?",
    "Write two sentences about the sea.",
    "Why is the sky blue?",
    "Count to ten.",
]


@pytest.fixture(scope="module")
def file() -> GGUFFile:
    return GGUFFile.open(embedded_model())


@pytest.fixture(scope="module")
def tokenizer(file: GGUFFile) -> Tokenizer:
    return from_gguf(file.metadata)


def llama(file: GGUFFile, dtype: torch.dtype, *, exact: bool = False) -> Llama:
    config = gguf_config(file)
    weights = load_gguf(file, config, Form(dtype, exact=exact), torch.device("cpu"), lambda _: None)
    return Llama(config, weights, context=2048)


@pytest.fixture(scope="module")
def whole(file: GGUFFile) -> Llama:
    return llama(file, torch.float32)


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    assert tokenizer.template is not None
    return [tokenizer.encode(tokenizer.template.render([Message(Role.USER, q)])) for q in QUESTIONS]


def logits(model: Llama, ids: list[int]) -> torch.Tensor:
    """[n, vocab] float32, of every token."""
    places = torch.arange(len(ids))
    whole = Span(0, len(ids), places, None)
    todo = Step(torch.tensor(ids), places, places, (), (whole,), places)
    return model.forward(todo, KVCache(model.config, len(ids), model.weights.norm)).float()


def test_greedy_tokens_equal_transformers_alone_and_batched(whole: Llama, tokenizer: Tokenizer) -> None:
    from transformers import AutoModelForCausalLM

    path = embedded_model()
    theirs: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    asked = prompts(tokenizer)
    expected = [greedy(theirs, ids, 16) for ids in asked]
    for group in ([asked[0]], asked):
        scheduler, runner = engine_parts(whole, step_tokens=32)
        rows = [row(str(i), ids, 16) for i, ids in enumerate(group)]
        for each in rows:
            scheduler.add(each)
        while not scheduler.idle:
            step(scheduler, runner)
        assert [each.tokens for each in rows] == expected[: len(rows)]


def decoded_logits(model: Llama, ids: list[int]) -> torch.Tensor:
    """As `logits`, one token after the other."""
    cache, places = KVCache(model.config, len(ids), model.weights.norm), torch.arange(len(ids))
    rows = []
    for i, id in enumerate(ids):
        read = RowGroup(0, 1, places[None, : i + 1], torch.ones(1, 1, 1, i + 1, dtype=torch.bool))
        step = Step(torch.tensor([id]), places[i : i + 1], places[i : i + 1], (read,), (), places[:1])
        rows.append(model.forward(step, cache))
    return torch.cat(rows).float()


@pytest.mark.parametrize("exact", [True, False])
def test_four_bits_stay_near_float32(file: GGUFFile, exact: bool, whole: Llama, tokenizer: Tokenizer) -> None:
    """As a prompt, and as an answer, which may be multiplied in another way."""
    small = llama(file, torch.bfloat16, exact=exact)
    assert small.weights.precision == "int4"
    assert not exact or small.weights.layers[0].qkv.bytes < 0.7 * 960 * 576
    for ids in prompts(tokenizer):
        right = logits(whole, ids)
        for near in (logits(small, ids), decoded_logits(small, ids)):
            assert (near - right).norm() < 0.05 * right.norm()
            assert (near.argmax(-1) == right.argmax(-1)).float().mean() > 0.85


def test_a_text_is_as_likely_when_it_is_read_as_when_it_was_written(whole: Llama, tokenizer: Tokenizer) -> None:
    params = SamplingParams(temperature=0.0, logprobs=2)
    asked = prompts(tokenizer)[0]

    def runner_of(model: Llama, *, vocab: int, **more: Any) -> Runner:
        return Runner(model, vocab=tokenizer.size, **more)

    ((text, written),) = made(runner_of, whole, [asked], [params], 12)
    scores: dict[str, dict[int, Likely]] = {"0": {}, "1": {}}
    both = [replace(params, prompt_logprobs=True), params]
    made(runner_of, whole, [text, asked], both, 1, scores=scores)
    read = [scores["0"][place] for place in range(len(asked), len(text))]
    assert [one.logprob for one in read] == pytest.approx([one.logprob for one in written], abs=1e-3)
    assert all(one.top[0][0] == id for one, id in zip(read, text[len(asked) :], strict=True)) and not scores["1"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_exact_row_in_four_bits_is_the_same_to_the_last_bit_in_any_company(
    file: GGUFFile, tokenizer: Tokenizer, temperature: float
) -> None:
    small, asked = llama(file, torch.bfloat16, exact=True), prompts(tokenizer)
    params = SamplingParams(temperature=temperature)
    texts = []
    for company in ([], asked * 2):
        scheduler, runner = engine_parts(small, step_tokens=48, exact=True)
        for i, ids in enumerate(company):
            scheduler.add(row(f"o{i}", ids[: 20 + 3 * i], 30, params, seed=i))
        if company:
            step(scheduler, runner)
        for again in range(2):  # then the beginning of the prompt is in the cache
            scheduler.add(ours := row("ours", asked[1], 40, params, seed=7))
            while not scheduler.idle:
                step(scheduler, runner)
            assert ours.cached or not again
            texts.append(ours.tokens)
    assert texts[0] == texts[1] == texts[2] == texts[3]


def test_a_prompt_known_from_the_cache_goes_on_with_the_same_text_in_four_bits(
    file: GGUFFile, tokenizer: Tokenizer
) -> None:
    """Only its last tokens are computed then: few, but multiplied as the whole prompt was."""
    scheduler, runner = engine_parts(llama(file, torch.bfloat16), step_tokens=256)
    for asked in prompts(tokenizer):
        texts = []
        for name in ("new", "known"):
            scheduler.add(each := row(name, asked, 12))
            while not scheduler.idle:
                step(scheduler, runner)
            texts.append(each.tokens)
        assert each.cached and texts[0] == texts[1]
