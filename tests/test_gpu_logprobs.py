"""Log-probabilities from the card's runner: on a CUDA device, or in Triton's interpreter (see test_gpu.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bluelm.engine.gpu import runner as gpu_runner
from bluelm.engine.runner import Runner
from bluelm.types import SamplingParams
from tests.gpu_kit import few_programs  # noqa: F401  (of every test here)
from tests.logprobs_kit import GREEDY, PROMPTS, QUIET, WARPED, check, check_prompts, made
from tests.test_gpu_kernels import DEVICE, INTERPRETED, moved, on_card
from tests.tiny import VOCAB, tiny_llama

NEW = 3 if INTERPRETED else 24
ABOUT = 1e-3 if INTERPRETED else 3e-2  # a card may multiply float32 in fewer bits


@torch.inference_mode()
def test_they_are_the_models_own_beside_rows_of_every_kind() -> None:
    """A penalised row's too, and where the cache is so small that rows are put back."""
    model, theirs = tiny_llama(kv_heads=2)
    together = made(on_card, moved(model), PROMPTS, [GREEDY, WARPED, QUIET], NEW, blocks=4 if INTERPRETED else 6)
    for prompt, params, (tokens, told) in zip(PROMPTS[:2], [GREEDY, WARPED], together[:2], strict=True):
        check(theirs, prompt, tokens, told, params.logprobs or 0, within=ABOUT)
    assert [likely.top[0][0] for likely in together[0][1]] == together[0][0][-NEW:]


def test_those_of_a_prompt_are_the_models_own_and_told_once() -> None:
    model, theirs = tiny_llama(kv_heads=2)
    check_prompts(on_card, moved(model), theirs, 1 if INTERPRETED else NEW, 4 if INTERPRETED else 6, within=ABOUT)


@torch.inference_mode()
def test_additions_are_those_of_the_plain_runner() -> None:
    """Greedy, in company, where rows are put back and begin anew; the log-probabilities stay the model's own."""
    model, theirs = tiny_llama(kv_heads=2)
    params = [
        SamplingParams(temperature=0.0, presence_penalty=1.0, frequency_penalty=0.5, logprobs=2),
        SamplingParams(
            temperature=0.0, frequency_penalty=2.0, repetition_penalty=1.2, logit_bias=((7, 30.0), (3, -9.0))
        ),
        SamplingParams(temperature=0.0),
    ]
    blocks = 4 if INTERPRETED else 6
    plain = made(Runner, model, PROMPTS, params, NEW + 1, blocks=blocks)
    ours = made(on_card, moved(model), PROMPTS, params, NEW + 1, blocks=blocks)
    assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in plain]
    assert ours[1][0][1] == 7 and plain != made(Runner, model, PROMPTS, [params[2]] * 3, NEW + 1)
    check(theirs, PROMPTS[0], *ours[0], top=2, within=ABOUT)


class Walk:
    """Allows ids of one remainder, which is another one after each token."""

    def __init__(self) -> None:
        self.allowed = np.arange(VOCAB) % 5 == 0

    def take(self, token: int) -> None:
        assert self.allowed[token]
        self.allowed = np.arange(VOCAB) % 5 == (token + 1) % 5


def test_a_row_with_a_guide_keeps_to_it_beside_others() -> None:
    model, _ = tiny_llama(kv_heads=2)
    params = [SamplingParams(temperature=0.0), SamplingParams(temperature=0.0, logit_bias=((10, 3.0),)), QUIET]
    guided = [
        made(runner, there, PROMPTS, params, NEW + 1, blocks=5, guides=[Walk(), Walk(), None])
        for runner, there in ((Runner, model), (on_card, moved(model)))
    ]
    assert [tokens for tokens, _ in guided[1][:2]] == [tokens for tokens, _ in guided[0][:2]]


def test_rows_that_do_not_ask_launch_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = []
    note = gpu_runner.note

    def counted(rows, logits, states):  # type: ignore[no-untyped-def]
        found = note(rows, logits, states)
        noted.append(sum(len(one.rows) for one in found))
        assert logits.shape[1] == VOCAB and logits.device.type == DEVICE.type
        return found

    monkeypatch.setattr(gpu_runner, "note", counted)
    made(on_card, moved(tiny_llama()[0]), PROMPTS[1:2], [QUIET], NEW)
    assert noted and not any(noted)
