"""Log-probabilities from the card's runner: on a CUDA device, or in Triton's interpreter (see test_gpu.py)."""

from __future__ import annotations

import pytest
import torch

from bluelm.engine.gpu import runner as gpu_runner
from tests.logprobs_kit import GREEDY, PROMPTS, QUIET, WARPED, check, made
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
