"""What is served on a card, from the checkpoint's folder to the text, in Triton's interpreter (see test_gpu.py)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.gpu_kit import INTERPRETED, few_programs  # noqa: F401  (of every test here)

if not INTERPRETED:
    pytest.skip("needs Triton's interpreter (on a card the app itself is tried)", allow_module_level=True)
pytest.importorskip("triton")

from bluelm.config import Settings, load_settings
from bluelm.engine import loader
from bluelm.engine.core import EngineCore, Request
from bluelm.engine.gpu import decode
from bluelm.engine.gpu.runner import GpuRunner
from bluelm.engine.linear import Form
from bluelm.engine.opening import open_model
from bluelm.engine.sizing import Wanted
from bluelm.engine.wire import Failed
from bluelm.errors import StartupError
from bluelm.types import ModelKind, SamplingParams
from tests.checkpoints import write_checkpoint

GREEDY = SamplingParams(temperature=0.0)
DTYPE = torch.float16  # the interpreter multiplies bfloat16 wrongly


class Card:
    """As memory.Card."""

    room = 10**9

    def left(self) -> int:
        return self.room

    def tidy(self) -> None:
        pass


class Chosen:
    """As kernels.Kernels, which would choose plain operations on a CPU."""

    exact = False

    def __init__(self, kernels: bool) -> None:
        self.kernels = kernels

    def why_not(self) -> str:
        return "" if self.kernels else "plain is asked for"

    def compile(self, *_: object) -> None:
        pass

    def wait(self) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "BlueLM-7B-Chat"
    write_checkpoint(path)
    return path


def serving(path: Path, *, kernels: bool, cache: int, settings: Settings | None = None) -> EngineCore:
    settings = settings or load_settings(model=str(path))
    wanted = Wanted(context=64, running=2, cache=cache, step=16)
    card = Card() if kernels else None
    form = Form(DTYPE, settings.quantization, kernels)
    place = loader._Place(torch.device("cpu"), form, wanted, card, Chosen(kernels))  # type: ignore[arg-type]
    core, info, fit = loader._serving(settings, open_model(path, settings), place, lambda phase, done: None)
    assert info.kind is ModelKind.CHAT and info.dtype == "float16" and fit.tokens == cache
    return core


def texts(core: EngineCore, prompts: Sequence[list[int]], new: int) -> list[str]:
    """What each prompt's answer says; all at once."""
    for index, prompt in enumerate(prompts):
        core.add(Request(str(index), prompt, GREEDY, 0, new, time.monotonic()))
    made = [""] * len(prompts)
    while not core.idle:
        for said in core.step():
            assert not isinstance(said, Failed), said.error
            made[int(said.id)] += said.text
    return made


PROMPTS = ([1, *range(40, 54)], [1, 60, 61], [1, 70])


def test_a_folder_is_served_as_by_the_plain_engine_even_where_the_cache_is_full(folder: Path) -> None:
    """And though the memory runs out in the middle of a step, once."""
    expected = texts(serving(folder, kernels=False, cache=256), PROMPTS, 3)
    core = serving(folder, kernels=True, cache=32)
    runner = core.runner
    assert isinstance(runner, GpuRunner)
    fill, calls = runner._prefill, []

    def sometimes(pieces):  # type: ignore[no-untyped-def]
        calls.append(len(pieces))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return fill(pieces)

    runner._prefill = sometimes  # type: ignore[assignment]
    assert texts(core, PROMPTS, 3) == expected
    assert core.scheduler.preemptions > 0 and len(calls) > 2 and core.scheduler.alone_tokens == 16


def test_a_kernel_that_computes_something_else_is_told_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(x, weight, y, rows, *others):  # type: ignore[no-untyped-def]
        right(x, weight, y, rows, *others)
        if y.shape[1] == 64 and rows == 2:
            y[1, ::2] *= 0.5

    right = decode.product
    monkeypatch.setattr(decode, "product", wrong)
    with pytest.raises(StartupError, match=r"wrong numbers on this device.* for 2 rows"):
        serving(folder, kernels=True, cache=128)
